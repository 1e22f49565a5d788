export default {
  'common.cancel': 'Cancel',
  'common.copied': 'Copied',
  'common.copy': 'Copy',
  'common.copy_failed': 'Could not copy',
  'common.dismiss': 'Dismiss',
  'common.loading': 'Loading…',
  'common.reload': 'Reload the page',
  'common.try_again': 'Try again',

  'shell.skip': 'Skip to the content',
  'shell.navigation': 'Main',
  'shell.log_out': 'Log out',
  'shell.default_password':
    'The password of admin is still the default one. Until it is changed, only this machine can log in, and nobody else can be let in.',
  'shell.change_password': 'Change it',

  'nav.models': 'Models',
  'nav.playground': 'Playground',
  'nav.nodes': 'Nodes',
  'nav.requests': 'Requests',
  'nav.access': 'Access',
  'nav.settings': 'Settings',

  'live.live': 'Live',
  'live.connecting': 'Connecting…',
  'live.waiting': 'Not connected',
  'live.stale': 'The connection to llb is lost. This page shows what was at {time}, and catches up by itself.',
  'live.reconnect': 'Reconnect now',

  'login.title': 'Log in to llb',
  'login.username': 'Username',
  'login.password': 'Password',
  'login.submit': 'Log in',
  'login.ended': 'Your session has ended. Log in to go on where you were.',

  'notice.ready': '{name} is ready.',
  'notice.failed': '{name} could not be pulled.',
  'notice.offline': 'The node {name} is not reachable any more.',
  'notice.online': 'The node {name} is back.',

  'announce.Available': '{name} is no longer here.',
  'announce.Registered': '{name} waits to be downloaded.',
  'announce.Downloading': '{name} is being downloaded.',
  'announce.Ready': '{name} is ready.',
  'announce.Error': '{name} failed.',
  'announce.progress': '{name}: {percent} per cent.',
};
