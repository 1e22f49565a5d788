export default {
  'common.cancel': 'キャンセル',
  'common.close': '閉じる',
  'common.copied': 'コピーしました',
  'common.copy': 'コピー',
  'common.copy_failed': 'コピーできませんでした',
  'common.dismiss': '閉じる',
  'common.loading': '読み込み中…',
  'common.reload': 'ページを再読み込み',
  'common.try_again': '再試行',

  'shell.skip': 'コンテンツへ移動',
  'shell.navigation': 'メイン',
  'shell.log_out': 'ログアウト',
  'shell.default_password':
    'admin アカウントのパスワードが初期値のままです。変更するまでは、このマシンからしかログインできず、ユーザーやノードも追加できません。',
  'shell.change_password': 'パスワードを変更',

  'nav.models': 'モデル',
  'nav.playground': 'Playground',
  'nav.nodes': 'ノード',
  'nav.requests': 'リクエスト',
  'nav.access': 'アクセス',
  'nav.settings': '設定',

  'connection.connected': '接続中',
  'connection.connecting': '接続しています…',
  'connection.disconnected': '切断',
  'connection.stale': '接続が切れました。{time} 時点のデータを表示しています。自動的に再接続します。',
  'connection.reconnect': '今すぐ再接続',

  'login.title': 'llb にログイン',
  'login.username': 'ユーザー名',
  'login.password': 'パスワード',
  'login.show': '表示',
  'login.hide': '隠す',
  'login.default_password':
    '初回起動です。ユーザー名 admin、パスワード test でログインし、その後パスワードを変更してください。',
  'login.submit': 'ログイン',
  'login.not_local':
    'ここからは初期パスワードを使えません（{reason}）。ホストで llb password を実行するか、llb の起動時に表示されたリンクを開いてください。リバースプロキシの背後にある場合は、--trusted-proxy で指定してください。',
  'login.setup_title': 'admin のパスワードを設定',
  'login.setup_hint': 'このリンクは一度だけ使えます。設定したパスワードが初期パスワードに置き換わります。',
  'login.setup_submit': '保存してログイン',
  'login.setup_invalid':
    'このリンクは無効です。使用済み、期限切れ、または以前の起動時のものです。ホストで llb password を実行するか、llb を再起動して新しいリンクを取得してください。',
  'login.ended': 'セッションの有効期限が切れました。続けるにはログインしてください。',

  'toast.ready': '{name} の準備ができました。',
  'toast.failed': '{name} をダウンロードできませんでした。',
  'toast.offline': '{name} がオフラインになりました。',
  'toast.online': '{name} がオンラインに戻りました。',
  'toast.joined': '{name} が参加しました。',

  'announcement.Cancelled': '{name} のダウンロードをキャンセルしました。',
  'announcement.Available': '{name} は削除されました。',
  'announcement.Registered': '{name} はダウンロード待ちです。',
  'announcement.Downloading': '{name} をダウンロードしています。',
  'announcement.Ready': '{name} の準備ができました。',
  'announcement.Error': '{name} でエラーが発生しました。',
  'announcement.progress': '{name}：{percent} パーセント。',
};
