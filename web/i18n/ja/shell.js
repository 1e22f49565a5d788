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

  'shell.skip': '本文へ移動',
  'shell.navigation': 'メイン',
  'shell.log_out': 'ログアウト',
  'shell.default_password':
    'admin のパスワードが初期値のままです。変更するまでは、このマシンからしかログインできず、ほかの人を追加することもできません。',
  'shell.change_password': '変更する',

  'nav.models': 'モデル',
  'nav.playground': 'Playground',
  'nav.nodes': 'ノード',
  'nav.requests': 'リクエスト',
  'nav.access': 'アクセス',
  'nav.settings': '設定',

  'connection.connected': '接続中',
  'connection.connecting': '接続しています…',
  'connection.disconnected': '未接続',
  'connection.stale':
    'llb との接続が切れました。{time} 時点の内容を表示しています。復旧すると自動で更新されます。',
  'connection.reconnect': '今すぐ再接続',

  'login.title': 'llb にログイン',
  'login.username': 'ユーザー名',
  'login.password': 'パスワード',
  'login.submit': 'ログイン',
  'login.ended': 'セッションが終了しました。ログインすると元の画面に戻ります。',

  'toast.ready': '{name} の準備ができました。',
  'toast.failed': '{name} を取得できませんでした。',
  'toast.offline': 'ノード {name} に接続できなくなりました。',
  'toast.online': 'ノード {name} が復帰しました。',
  'toast.joined': '{name} が参加しました。',

  'announcement.Available': '{name} は削除されました。',
  'announcement.Registered': '{name} はダウンロード待ちです。',
  'announcement.Downloading': '{name} のダウンロードを開始しました。',
  'announcement.Ready': '{name} の準備ができました。',
  'announcement.Error': '{name} は失敗しました。',
  'announcement.progress': '{name}：{percent} パーセント。',
};
