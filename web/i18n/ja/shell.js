export default {
  'common.cancel': 'キャンセル',
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

  'live.live': '接続中',
  'live.connecting': '接続しています…',
  'live.waiting': '未接続',
  'live.stale': 'llb との接続が切れました。{time} 時点の内容を表示しています。復旧すると自動で更新されます。',
  'live.reconnect': '今すぐ再接続',

  'login.title': 'llb にログイン',
  'login.username': 'ユーザー名',
  'login.password': 'パスワード',
  'login.submit': 'ログイン',
  'login.ended': 'セッションが終了しました。ログインすると元の画面に戻ります。',

  'notice.ready': '{name} の準備ができました。',
  'notice.failed': '{name} を取得できませんでした。',
  'notice.offline': 'ノード {name} に接続できなくなりました。',
  'notice.online': 'ノード {name} が復帰しました。',

  'announce.Available': '{name} は削除されました。',
  'announce.Registered': '{name} はダウンロード待ちです。',
  'announce.Downloading': '{name} のダウンロードを開始しました。',
  'announce.Ready': '{name} の準備ができました。',
  'announce.Error': '{name} は失敗しました。',
  'announce.progress': '{name}：{percent} パーセント。',
};
