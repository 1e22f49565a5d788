BEGIN TRANSACTION;
CREATE TABLE api_keys (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        hash TEXT NOT NULL UNIQUE,
        prefix TEXT NOT NULL,
        scopes TEXT NOT NULL,
        owner_id TEXT REFERENCES users (id) ON DELETE CASCADE,
        expires_at REAL,
        created_at REAL NOT NULL,
        last_used_at REAL
    , limits TEXT, ceiling TEXT, parent_id TEXT REFERENCES api_keys (id) ON DELETE CASCADE);
INSERT INTO "api_keys" VALUES('k1','laptop','ae077dd5124a2a43d52369b482b8c7a95b3c3d8e28a9e4e36e9895eeddf44c57','sk-0123456','["inference", "models:read"]','u1',NULL,1700000000.0,1700000001.0,'{"requests_per_minute": 60}',NULL,NULL);
CREATE TABLE audit (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        time REAL NOT NULL,
        actor TEXT NOT NULL,
        action TEXT NOT NULL,
        target TEXT,
        address TEXT,
        result TEXT NOT NULL
    , actor_id TEXT NOT NULL DEFAULT '', class TEXT NOT NULL DEFAULT 'admin');
INSERT INTO "audit" VALUES(1,1700000000.0,'ann','login',NULL,'192.0.2.1','ok','ann','login');
CREATE TABLE budgets (
        scope TEXT NOT NULL CHECK (scope IN ('key', 'provider')),
        id TEXT NOT NULL,
        period TEXT NOT NULL CHECK (period IN ('day', 'month')),
        limit_usd REAL NOT NULL CHECK (limit_usd >= 0),
        PRIMARY KEY (scope, id, period)
    ) WITHOUT ROWID
    ;
INSERT INTO "budgets" VALUES('key','k1','day',5.0);
CREATE TABLE chart_points ( kind TEXT NOT NULL CHECK (kind IN ('node', 'model')), subject TEXT NOT NULL, slot INTEGER NOT NULL, at INTEGER NOT NULL, figures TEXT NOT NULL, PRIMARY KEY (kind, subject, slot)) WITHOUT ROWID, STRICT;
CREATE TABLE conversation_messages (
        user_id TEXT NOT NULL,
        conversation_id TEXT NOT NULL,
        id TEXT NOT NULL,
        parent_id TEXT,
        role TEXT NOT NULL,
        text TEXT NOT NULL,
        content TEXT NOT NULL,
        size_bytes INTEGER NOT NULL,
        created_at REAL NOT NULL,
        PRIMARY KEY (user_id, conversation_id, id),
        FOREIGN KEY (user_id, conversation_id) REFERENCES conversations (user_id, id) ON DELETE CASCADE
    );
INSERT INTO "conversation_messages" VALUES('u1','c1','m1',NULL,'user','Tell me of cats','{"id":"m1","role":"user"}',42,1700000000.0);
INSERT INTO "conversation_messages" VALUES('u1','c1','m2','m1','assistant','They purr','{"id":"m2","role":"assistant","ended":"stop"}',42,1700000001.0);
CREATE TABLE conversations (
        user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        id TEXT NOT NULL,
        title TEXT NOT NULL,
        pinned INTEGER NOT NULL CHECK (pinned IN (0, 1)),
        settings TEXT NOT NULL,
        leaf_id TEXT,
        created_at REAL NOT NULL,
        updated_at REAL NOT NULL, settings_bytes INTEGER NOT NULL DEFAULT 2,
        PRIMARY KEY (user_id, id)
    );
INSERT INTO "conversations" VALUES('u1','c1','Cats',1,'{"system":"Be brief.","parameters":{"temperature":0.5},"stop":""}','m2',1700000000.0,1700000001.0,65);
CREATE TABLE endpoints (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        base_url TEXT NOT NULL,
        settings TEXT NOT NULL,
        key TEXT,
        key_last_four TEXT,
        key_changed_at REAL,
        key_changed_by TEXT,
        models TEXT,
        listed_at REAL,
        created_at REAL NOT NULL
    );
CREATE TABLE file_facts (
        sha256 TEXT PRIMARY KEY,
        facts BLOB NOT NULL
    ) WITHOUT ROWID
    ;
INSERT INTO "file_facts" VALUES('ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff',X'7B7D');
CREATE TABLE former_names (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL
    ) WITHOUT ROWID
;
INSERT INTO "former_names" VALUES('k0','old laptop');
CREATE TABLE join_tokens (
        hash TEXT PRIMARY KEY,
        created_by TEXT NOT NULL,
        created_at REAL NOT NULL,
        expires_at REAL NOT NULL,
        used_at REAL
    );
INSERT INTO "join_tokens" VALUES('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','ann',1700000000.0,1700003600.0,NULL);
CREATE TABLE nodes (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        credential_hash TEXT UNIQUE,
        tags TEXT NOT NULL DEFAULT '[]',
        draining INTEGER NOT NULL DEFAULT 0 CHECK (draining IN (0, 1)),
        created_at REAL NOT NULL,
        removed_at REAL,
        hello BLOB
    , hop_credential TEXT, last_seen REAL);
INSERT INTO "nodes" VALUES('n1','garage','cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc','["gpu"]',1,1700000000.0,NULL,NULL,'llbn-old',1700000002.0);
CREATE TABLE presets (
        user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        id TEXT NOT NULL,
        name TEXT NOT NULL,
        settings TEXT NOT NULL,
        models TEXT NOT NULL,
        PRIMARY KEY (user_id, id)
    );
INSERT INTO "presets" VALUES('u1','p1','Brief','{"system":"Be brief.","parameters":{},"stop":""}','["tiny"]');
CREATE TABLE registrations (
        model_id TEXT PRIMARY KEY,
        attempt INTEGER NOT NULL,
        replicas TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('active', 'deleting')),
        entry TEXT NOT NULL,
        resolved TEXT,
        error TEXT,
        created_at REAL NOT NULL,
        created_by TEXT NOT NULL
    , pinned INTEGER NOT NULL DEFAULT 0 CHECK (pinned IN (0, 1)), options TEXT, placement TEXT, error_code TEXT);
INSERT INTO "registrations" VALUES('tiny',2,'"all"','active','{"id":"tiny","name":"tiny","description":"","repo":"test/tiny","recommended_filename":"tiny.gguf","extra_filenames":[],"size_bytes":300000,"required_memory_bytes":64000000,"tags":[],"capabilities":["TextGeneration"],"quantization":null,"parameter_count":null,"format":"Gguf","engine":"llama.cpp","platforms":["Linux","Windows","MacOS"],"context_length":null,"sha256":null,"revision":null}',NULL,NULL,1700000000.0,'ann',1,NULL,NULL,NULL);
CREATE TABLE replicas (
        node_id TEXT NOT NULL,
        model_id TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        state TEXT NOT NULL,
        error TEXT,
        files TEXT NOT NULL,
        last_used REAL,
        pinned INTEGER NOT NULL DEFAULT 0 CHECK (pinned IN (0, 1)), error_code TEXT,
        PRIMARY KEY (node_id, model_id)
    ) WITHOUT ROWID
    ;
INSERT INTO "replicas" VALUES('n1','tiny',2,'ready',NULL,'[]',1700000003.0,1,NULL);
CREATE TABLE request_texts (
        id INTEGER PRIMARY KEY,
        prompt TEXT,
        prompt_truncated INTEGER NOT NULL CHECK (prompt_truncated IN (0, 1)),
        answer TEXT,
        answer_truncated INTEGER NOT NULL CHECK (answer_truncated IN (0, 1))
    );
INSERT INTO "request_texts" VALUES(1700000000000000,'Hi',0,'Hello',0);
CREATE TABLE requests (
        id INTEGER PRIMARY KEY,
        request_id TEXT NOT NULL,
        key_id TEXT,
        user_id TEXT,
        model TEXT,
        node_id TEXT,
        endpoint TEXT NOT NULL,
        stream INTEGER NOT NULL CHECK (stream IN (0, 1)),
        status INTEGER NOT NULL,
        error_code TEXT,
        prompt_tokens INTEGER,
        cached_tokens INTEGER,
        completion_tokens INTEGER,
        queue_ms INTEGER NOT NULL,
        ttft_ms INTEGER,
        duration_ms INTEGER NOT NULL,
        has_text INTEGER NOT NULL CHECK (has_text IN (0, 1))
    , endpoint_id TEXT, cost_usd REAL);
INSERT INTO "requests" VALUES(1700000000000000,'req-1','k1','u1','tiny','n1','/v1/chat/completions',1,200,NULL,3,1,4,0,5,6,1,NULL,NULL);
CREATE TABLE sessions (
        id TEXT PRIMARY KEY,
        user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        created_at REAL NOT NULL,
        expires_at REAL NOT NULL,
        last_seen REAL NOT NULL,
        address TEXT
    );
INSERT INTO "sessions" VALUES('s1','u1',1700000000.0,4000000000.0,1700000000.0,'192.0.2.1');
CREATE TABLE settings (
        key TEXT PRIMARY KEY,
        value TEXT NOT NULL
    ) WITHOUT ROWID
    ;
INSERT INTO "settings" VALUES('cluster_id','0123456789abcdef');
INSERT INTO "settings" VALUES('node_id','fedcba9876543210');
INSERT INTO "settings" VALUES('revision','0');
CREATE TABLE spend (
        scope TEXT NOT NULL CHECK (scope IN ('key', 'provider')),
        id TEXT NOT NULL,
        day INTEGER NOT NULL,
        usd REAL NOT NULL,
        PRIMARY KEY (scope, id, day)
    ) WITHOUT ROWID
    ;
INSERT INTO "spend" VALUES('key','k1',1699920000,0.25);
CREATE TABLE spill_rules (
        model TEXT PRIMARY KEY,
        rules TEXT NOT NULL
    ) WITHOUT ROWID
    ;
CREATE TABLE usage_days (
        start INTEGER NOT NULL,
        model TEXT NOT NULL,
        key_id TEXT NOT NULL,
        user_id TEXT NOT NULL,
        node_id TEXT NOT NULL,
        requests INTEGER NOT NULL,
        errors INTEGER NOT NULL,
        prompt_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        duration_ms INTEGER NOT NULL, cost_usd REAL,
        PRIMARY KEY (start, model, key_id, user_id, node_id)
    ) WITHOUT ROWID
;
INSERT INTO "usage_days" VALUES(1699999200,'tiny','k1','u1','n1',1,0,3,1,4,6,NULL);
CREATE TABLE usage_hours (
        start INTEGER NOT NULL,
        model TEXT NOT NULL,
        key_id TEXT NOT NULL,
        user_id TEXT NOT NULL,
        node_id TEXT NOT NULL,
        requests INTEGER NOT NULL,
        errors INTEGER NOT NULL,
        prompt_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        duration_ms INTEGER NOT NULL, cost_usd REAL,
        PRIMARY KEY (start, model, key_id, user_id, node_id)
    ) WITHOUT ROWID
;
INSERT INTO "usage_hours" VALUES(1699999200,'tiny','k1','u1','n1',1,0,3,1,4,6,NULL);
CREATE TABLE users (
        id TEXT PRIMARY KEY,
        username TEXT NOT NULL UNIQUE COLLATE NOCASE,
        password_hash TEXT NOT NULL,
        role TEXT NOT NULL CHECK (role IN ('admin', 'user')),
        must_change_password INTEGER NOT NULL CHECK (must_change_password IN (0, 1)),
        created_at REAL NOT NULL
    );
INSERT INTO "users" VALUES('u1','ann','$argon2id$v=19$m=19456,t=2,p=1$MMhkCD8iCdjoroUHbA/6/w$4oOyYPwDRJGnfRQ9pHz8B+Q8QXH1T3VoflgHZdim6/g','admin',0,1700000000.0);
CREATE INDEX sessions_by_user ON sessions (user_id);
CREATE INDEX api_keys_by_owner ON api_keys (owner_id);
CREATE INDEX requests_failed ON requests (id) WHERE error_code IS NOT NULL;
CREATE INDEX requests_with_text ON requests (id) WHERE has_text;
CREATE INDEX requests_by_node_id ON requests (node_id);
CREATE INDEX requests_failed_by_node_id ON requests (node_id) WHERE error_code IS NOT NULL;
CREATE INDEX requests_by_model ON requests (model);
CREATE INDEX requests_failed_by_model ON requests (model) WHERE error_code IS NOT NULL;
CREATE INDEX requests_by_user_id ON requests (user_id);
CREATE INDEX requests_failed_by_user_id ON requests (user_id) WHERE error_code IS NOT NULL;
CREATE INDEX requests_by_key_id ON requests (key_id);
CREATE INDEX requests_failed_by_key_id ON requests (key_id) WHERE error_code IS NOT NULL;
CREATE TRIGGER remember_api_keys AFTER DELETE ON api_keys BEGIN
        INSERT OR REPLACE INTO former_names (id, name) VALUES (OLD.id, OLD.name);
    END;
CREATE TRIGGER remember_users AFTER DELETE ON users BEGIN
        INSERT OR REPLACE INTO former_names (id, name) VALUES (OLD.id, OLD.username);
    END;
CREATE INDEX requests_by_request_id ON requests (request_id);
CREATE INDEX api_keys_by_parent ON api_keys (parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX api_keys_by_time ON api_keys (created_at, id);
CREATE INDEX audit_by_class ON audit (class, actor_id);
CREATE INDEX requests_by_endpoint_id ON requests (endpoint_id) WHERE endpoint_id IS NOT NULL;
CREATE TRIGGER remember_endpoints AFTER DELETE ON endpoints BEGIN
        INSERT OR REPLACE INTO former_names (id, name) VALUES (OLD.id, OLD.name);
    END;
CREATE TRIGGER remove_budget_of_key AFTER DELETE ON api_keys BEGIN
        DELETE FROM budgets WHERE scope = 'key' AND id = OLD.id;
    END;
CREATE INDEX conversations_listed ON conversations (user_id, pinned, updated_at, created_at, settings_bytes, id, title);
CREATE INDEX conversation_messages_by_size ON conversation_messages (user_id, conversation_id, size_bytes);
CREATE INDEX conversation_messages_by_time ON conversation_messages (user_id, conversation_id, created_at);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('audit',1);
PRAGMA user_version = 14;
COMMIT;
