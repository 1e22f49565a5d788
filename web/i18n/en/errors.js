/** By the contract's `code`. Where the server's own sentence carries the numbers, {message} is that sentence. */
export default {
  'error.network': 'llb does not answer. Is it running, and is this machine on the same network?',
  'error.unexpected': 'Something unexpected happened. {message}',
  'error.invalid_api_key': 'Your session has ended. Log in again.',
  'error.invalid_credentials': 'The username or the password is wrong.',
};
