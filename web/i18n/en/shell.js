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

  'shell.skip': 'Skip to content',
  'shell.navigation': 'Main',
  'shell.log_out': 'Log out',
  'shell.default_password':
    'The admin account still has the default password. Until you change it, you can only log in from this machine, and no users or nodes can be added.',
  'shell.change_password': 'Change password',

  'nav.models': 'Models',
  'nav.playground': 'Playground',
  'nav.nodes': 'Nodes',
  'nav.requests': 'Requests',
  'nav.access': 'Access',
  'nav.settings': 'Settings',

  'connection.connected': 'Connected',
  'connection.connecting': 'Connecting…',
  'connection.disconnected': 'Disconnected',
  'connection.stale': 'Connection lost. This page shows data from {time} and reconnects automatically.',
  'connection.reconnect': 'Reconnect now',

  'login.title': 'Log in to llb',
  'login.username': 'Username',
  'login.password': 'Password',
  'login.show': 'Show',
  'login.hide': 'Hide',
  'login.default_password':
    'A fresh installation: log in as admin with the password test, then change it.',
  'login.submit': 'Log in',
  'login.not_local':
    'The default password does not work from here: {reason}. Run llb password on the host, or open the link that llb printed when it started. If llb is behind a reverse proxy, name it with --trusted-proxy.',
  'login.setup_title': 'Choose a password for admin',
  'login.setup_hint': 'This link works once. The password takes the place of the default one.',
  'login.setup_submit': 'Save and log in',
  'login.setup_invalid':
    'This link is not valid: it was used, has expired, or is of an earlier start of llb. Run llb password on the host, or start llb again for a new link.',
  'login.ended': 'Your session has expired. Log in to continue.',

  'toast.ready': '{name} is ready.',
  'toast.failed': "Couldn't download {name}.",
  'toast.offline': '{name} went offline.',
  'toast.online': '{name} is back online.',
  'toast.joined': '{name} has joined.',

  'announcement.Cancelled': 'The download of {name} was cancelled.',
  'announcement.Available': '{name} was removed.',
  'announcement.Registered': '{name} is queued for download.',
  'announcement.Downloading': 'Downloading {name}.',
  'announcement.Ready': '{name} is ready.',
  'announcement.Error': '{name} failed.',
  'announcement.progress': '{name}: {percent} percent.',
};
