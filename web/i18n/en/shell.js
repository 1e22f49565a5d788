export default {
  'common.cancel': 'Cancel',
  'common.close': 'Close',
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

  'connection.connected': 'Live',
  'connection.connecting': 'Connecting…',
  'connection.disconnected': 'Not connected',
  'connection.stale':
    'The connection to llb is lost. This page shows what was at {time}, and catches up by itself.',
  'connection.reconnect': 'Reconnect now',

  'login.title': 'Log in to llb',
  'login.username': 'Username',
  'login.password': 'Password',
  'login.submit': 'Log in',
  'login.ended': 'Your session has ended. Log in to go on where you were.',

  'toast.ready': '{name} is ready.',
  'toast.failed': '{name} could not be pulled.',
  'toast.offline': 'The node {name} is not reachable any more.',
  'toast.online': 'The node {name} is back.',
  'toast.joined': '{name} has joined.',

  'announcement.Available': '{name} is no longer here.',
  'announcement.Registered': '{name} waits to be downloaded.',
  'announcement.Downloading': '{name} is being downloaded.',
  'announcement.Ready': '{name} is ready.',
  'announcement.Error': '{name} failed.',
  'announcement.progress': '{name}: {percent} per cent.',
};
