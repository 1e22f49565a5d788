/** 契約の `code` ごとの文。数値を含むものはサーバーの文（{message}）を添える。 */
export default {
  'error.network': 'llb が応答しません。起動しているか、同じネットワークにいるかを確認してください。',
  'error.unexpected': '予期しない問題が発生しました。{message}',
  'error.invalid_api_key': 'セッションが終了しました。もう一度ログインしてください。',
  'error.invalid_credentials': 'ユーザー名またはパスワードが違います。',
};
