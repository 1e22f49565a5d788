/** What the catalogue says in English: descriptions, and tags as `tag:…`. A text that is not here stays as it is. */
export default {
  'Lightweight model for quick inference':
    '素早く応答する軽量モデル',
  'The smallest chat model here: an answer within a second on any machine, good for trying things out, not for facts':
    '一覧で最小のチャットモデル。どのマシンでも 1 秒以内に応答します。お試し向きで、事実の確認には向きません',
  'Small English chat model that is quick on a laptop without a GPU':
    'GPU のないノート PC でも速い、英語の小型チャットモデル',
  'Tiny multilingual model that can think before it answers; runs on anything':
    '応答前に思考できる、ごく小さな多言語モデル。どこでも動きます',
  'Very small model from Google that writes well in many languages for its size':
    'Google の超小型モデル。サイズのわりに多くの言語で自然な文章を書きます',
  'Dependable small model for chat, summaries and tool calls on a laptop':
    'ノート PC でのチャット、要約、ツール呼び出しに使える堅実な小型モデル',
  'Newest small Mistral: multilingual, follows instructions closely, fits 4 GB of memory at a short context':
    '最新の小型 Mistral。多言語対応で指示に忠実、短いコンテキストなら 4 GB のメモリに収まります',
  'Business-minded small model from IBM, good at tool calls, extraction and JSON':
    'IBM の業務向け小型モデル。ツール呼び出し、情報抽出、JSON 出力が得意です',
  'Like Granite 4.0 Micro with a hybrid design whose memory hardly grows with long texts':
    'Granite 4.0 Micro と同様ですが、長文でもメモリ使用量がほとんど増えないハイブリッド構造です',
  'Compact Microsoft model for reasoning and code in English; short context':
    '英語での推論とコード向けの Microsoft の小型モデル。コンテキストは短めです',
  'Successor of Phi-3 Mini: stronger at maths and code, more languages, long context':
    'Phi-3 Mini の後継。数学とコードが強化され、対応言語が増え、コンテキストも長くなりました',
  'The best small all-rounder without thinking: chat, code and tools in many languages':
    '思考なしの小型モデルで最良の万能型。チャット、コード、ツール呼び出しを多くの言語でこなします',
  'Small model that reads images and thinks before it answers; long texts cost it little memory':
    '画像を読み、応答前に思考する小型モデル。長文でもメモリをあまり使いません',
  'Small multilingual model from Google that also understands images':
    '画像も理解する Google の小型多言語モデル',
  "Google's model for ordinary machines: images, many languages and good writing in 8 GB of memory":
    '一般的なマシン向けの Google のモデル。画像、多言語、優れた文章を 8 GB のメモリで扱えます',
  'Proven multilingual all-rounder that is good at structured output':
    '実績のある多言語の万能型。構造化出力が得意です',
  'Code completion, repair and explanation on an 8 GB graphics card':
    '8 GB の GPU で動く、コードの補完、修正、解説向けモデル',
  'The classic 7B: fast, plain and widely known':
    '定番の 7B モデル。速くシンプルで、広く知られています',
  "Meta's 8B: a dependable general assistant with tool calls and a long context":
    'Meta の 8B モデル。ツール呼び出しと長いコンテキストに対応する堅実な汎用アシスタント',
  "Community release of Meta's Llama 3.3 8B with its context restored to 128K":
    'Meta の Llama 3.3 8B のコミュニティ版。コンテキストを 128K に戻しています',
  'Llama 8B taught by DeepSeek R1 to reason step by step; slow but thorough at maths and logic':
    'DeepSeek R1 から段階的な推論を学んだ Llama 8B。時間はかかりますが、数学と論理に強いモデルです',
  'Strong all-rounder that can think before it answers; the usual choice for an 8 GB graphics card':
    '応答前に思考できる強力な万能型。8 GB の GPU での定番です',
  'Reads images, thinks, codes and calls tools: the strongest model that fits a 10 GB graphics card':
    '画像の読み取り、思考、コード、ツール呼び出しに対応。10 GB の GPU に収まる最も強力なモデルです',
  'Mixture of experts that answers at the speed of a 1B model; good for tool calls on a CPU':
    '1B モデルの速さで応答する混合エキスパート。CPU でのツール呼び出しに向いています',
  'Older Gemma with a pleasant writing style; short context':
    '心地よい文体の旧世代 Gemma。コンテキストは短めです',
  'Multilingual 12B from Mistral and NVIDIA, liked for writing and role play':
    'Mistral と NVIDIA による多言語 12B モデル。文章作成やロールプレイで好まれています',
  'Multilingual writing, translation and image understanding for a 12 GB graphics card':
    '12 GB の GPU 向け。多言語の文章作成、翻訳、画像理解に対応します',
  "Microsoft's 14B for reasoning, maths and code in English":
    '英語での推論、数学、コード向けの Microsoft の 14B モデル',
  'Clearly stronger than 8B at reasoning and long instructions; wants a 12 GB graphics card':
    '推論や長い指示では 8B モデルを明らかに上回ります。12 GB の GPU が必要です',
  "OpenAI's open-weight mixture of experts: reasons well and stays quick, fits 16 GB":
    'OpenAI のオープンウェイト混合エキスパート。推論が得意で速く、16 GB に収まります',
  'General assistant of 24B: precise instructions, tool calls, many languages':
    '24B の汎用アシスタント。正確な指示理解、ツール呼び出し、多言語に対応します',
  "Mistral's model for coding agents that read and edit whole repositories":
    'リポジトリ全体を読んで編集するコーディングエージェント向けの Mistral のモデル',
  'Mistral Small trained to reason step by step, in many languages':
    '多くの言語で段階的に推論するよう訓練された Mistral Small',
  'Dense 27B of 2026: steady at long coding and agent tasks, reads images; wants 24 GB':
    '2026 年の 27B 密モデル。長時間のコーディングやエージェント作業に安定し、画像も読めます。24 GB が必要です',
  'The knowledge of 30B at the speed of 3B: good on a machine with much RAM and a small graphics card':
    '30B の知識を 3B の速さで。RAM が多く GPU が小さいマシンに向いています',
  'Mixture of experts made for coding agents: 3B active parameters, long context':
    'コーディングエージェント向けの混合エキスパート。アクティブパラメーターは 3B、コンテキストは長めです',
  "IBM's large hybrid mixture of experts for tool calls and long documents":
    'ツール呼び出しと長文書向けの、IBM の大型ハイブリッド混合エキスパート',
  'Reasoning model of 32B that thinks long and answers hard maths and code questions':
    '長く思考し、難しい数学やコードの問題に答える 32B の推論モデル',
  'Fast large model for agents and code that also reads images; long texts cost it little memory':
    '画像も読める、エージェントとコード向けの高速な大型モデル。長文でもメモリをあまり使いません',
  "Meta's 70B for those with 48 GB or several graphics cards":
    '48 GB または複数の GPU を持つ人向けの Meta の 70B モデル',
  'The well-known image chat model on Mistral 7B: describes pictures and answers questions about them':
    'Mistral 7B を基にした有名な画像チャットモデル。画像の説明や質問への応答ができます',
  'Reads documents, tables, charts and screenshots, and finds things in pictures':
    '文書、表、グラフ、スクリーンショットを読み、画像の中の物を見つけます',
  'Fast English text embeddings of 768 numbers for search; wants the prefixes search_query: and search_document:':
    '検索用の高速な英語埋め込みモデル（768 次元）。接頭辞 search_query: と search_document: が必要です',
  'Small multilingual text embeddings of 768 numbers from Google':
    'Google の小型多言語埋め込みモデル（768 次元）',
  'Multilingual text embeddings of 1024 numbers for passages of up to 8192 tokens':
    '最大 8192 トークンの文章に対応する多言語埋め込みモデル（1024 次元）',
  'Multilingual and code embeddings of 1024 numbers for long passages; takes an instruction with the query':
    '長い文章に対応する多言語とコードの埋め込みモデル（1024 次元）。クエリに指示を付けます',
  'Orders search results by how well they answer a query, in many languages':
    '検索結果をクエリへの適合度順に並べ替えます。多くの言語に対応します',
  'tag:chat': 'チャット',
  'tag:multilingual': '多言語',
  'tag:coding': 'コード',
  'tag:compact': 'コンパクト',
  'tag:large': '大型',
  'tag:efficient': '高効率',
  'tag:reasoning': '推論（思考）',
  'tag:vision': '画像理解',
  'tag:search': '検索',
  'tag:embedding': '埋め込み',
  'tag:lightweight': '軽量',
  'tag:agents': 'エージェント',
  'tag:instruct': '指示追従',
  'tag:openai': 'OpenAI のモデル',
  'tag:reranking': 'リランキング',
};
