BEGIN TRANSACTION;
CREATE TABLE events (
	run VARCHAR(200) NOT NULL, 
	seq INTEGER NOT NULL, 
	round INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	line TEXT NOT NULL, 
	PRIMARY KEY (run, seq), 
	FOREIGN KEY(run) REFERENCES runs (id)
);
INSERT INTO "events" VALUES('a-run',0,1,0,'{"event":"Opened","at_s":1.5,"round":1,"attempt":0,"purpose":"train","population":5,"secret":{"b64":"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="},"norm_bound":0.3,"describes":false}');
INSERT INTO "events" VALUES('a-run',1,1,0,'{"event":"Asked","at_s":1.1,"task":7,"exchange":"train","nodes":["ada","bob"]}');
CREATE TABLE invitations (
	token_hash VARCHAR(64) NOT NULL, 
	name VARCHAR(200) NOT NULL, 
	role VARCHAR(40) NOT NULL, 
	made_s DOUBLE NOT NULL, 
	expires_s DOUBLE NOT NULL, 
	used_s DOUBLE, 
	used_by VARCHAR(200), 
	PRIMARY KEY (token_hash)
);
INSERT INTO "invitations" VALUES('abababababababababababababababababababababababababababababababab','ada','node',100.0,200.0,NULL,NULL);
CREATE TABLE models (
	run VARCHAR(200) NOT NULL, 
	round INTEGER NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	PRIMARY KEY (run, round), 
	FOREIGN KEY(run) REFERENCES runs (id)
);
INSERT INTO "models" VALUES('a-run',0,'d0ecd4dc871646d54852dd0f4a10dfdc4a49dada26699fa4d44b26f169b0c3ba');
INSERT INTO "models" VALUES('a-run',1,'8f84526b76ab1988211d516c33dfef8e98fe3999032384df4f8f651995492281');
CREATE TABLE nodes (
	name VARCHAR(200) NOT NULL, 
	public_key BLOB NOT NULL, 
	role VARCHAR(40) NOT NULL, 
	state VARCHAR(40) NOT NULL, 
	examples BIGINT, 
	schema_digest VARCHAR(64) NOT NULL, 
	versions TEXT NOT NULL, 
	joined_s DOUBLE NOT NULL, 
	last_seen_s DOUBLE NOT NULL, 
	PRIMARY KEY (name), 
	UNIQUE (public_key)
);
INSERT INTO "nodes" VALUES('ada',X'6161616161616161616161616161616161616161616161616161616161616161','node','active',60,'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc','{"lycia": "0.1"}',100.0,100.0);
CREATE TABLE parts (
	upload VARCHAR(64) NOT NULL, 
	number INTEGER NOT NULL, 
	PRIMARY KEY (upload, number), 
	FOREIGN KEY(upload) REFERENCES uploads (id) ON DELETE CASCADE
);
CREATE TABLE records (
	run VARCHAR(200) NOT NULL, 
	number INTEGER NOT NULL, 
	round INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	json TEXT NOT NULL, 
	PRIMARY KEY (run, number), 
	FOREIGN KEY(run) REFERENCES runs (id)
);
INSERT INTO "records" VALUES('a-run',0,0,0,'{"round":0,"attempt":0,"survivors":["ada","bob"],"evaluation":{"accuracy":0.3333333333333333},"missed":""}');
CREATE TABLE runs (
	id VARCHAR(200) NOT NULL, 
	app VARCHAR(200) NOT NULL, 
	"plan" TEXT NOT NULL, 
	plan_digest VARCHAR(64) NOT NULL, 
	layout TEXT NOT NULL, 
	schema TEXT, 
	versions TEXT NOT NULL, 
	state VARCHAR(40) NOT NULL, 
	reason TEXT NOT NULL, 
	created_s DOUBLE NOT NULL, 
	ended_s DOUBLE, 
	paused_s DOUBLE NOT NULL, 
	first_model VARCHAR(64) NOT NULL, 
	carried TEXT, 
	PRIMARY KEY (id)
);
INSERT INTO "runs" VALUES('a-run','digits','{"aggregator":{"expected_cohort":null,"part":"UniformMean"},"client":{"part":"FedAvg"},"evaluation":{"baseline_rounds":0,"evaluators":true,"every":1,"nodes":100,"part":"Evaluation"},"normalisation":null,"part":"Plan","rounds":3,"rules":{"deadline_s":3600.0,"least_nodes":1,"norm_bound":null,"norm_factor":3.0,"norm_history":10,"over_selection":null,"part":"RoundRules","quorum":null,"replacement":null,"retries":3,"weight_cap":10000000.0},"schedule":{"part":"Synchronous"},"seed":0,"selector":{"cohort_size":2,"part":"Uniform"},"server":{"beta1":0.9,"beta2":0.99,"epsilon":0.001,"learning_rate":0.1,"part":"Adam"},"stages":[],"statistics":"local","stop":null}','318d3a45e796c3a8e4c126172acbcd40af7228601396ab06f94d73828e88796f','[{"aliases":[],"dtype":"float32","name":"layer.weight","rule":"mean","segment":"trained","shape":[3,2]},{"aliases":[],"dtype":"bfloat16","name":"layer.bias","rule":"mean","segment":"trained","shape":[2]}]',NULL,'{"lycia": "0"}','running','',12.5,NULL,0.0,'d0ecd4dc871646d54852dd0f4a10dfdc4a49dada26699fa4d44b26f169b0c3ba','{"model":"8f84526b76ab1988211d516c33dfef8e98fe3999032384df4f8f651995492281","arrays":"422937bea70b1a346d82736b82feff20b88c5e3c326c12964a3f41be705a2c7d","frozen":"","round":1,"attempt":0,"norms":[0.1],"task":2,"best":0.0,"since_best":0,"inflight":[],"participation":{},"finished":"","over":false}');
CREATE TABLE settings (
	"key" VARCHAR(200) NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "settings" VALUES('schema','2');
CREATE TABLE uploads (
	id VARCHAR(64) NOT NULL, 
	run VARCHAR(200) NOT NULL, 
	task BIGINT NOT NULL, 
	node VARCHAR(200) NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	parts TEXT NOT NULL, 
	PRIMARY KEY (id)
);
CREATE INDEX ix_uploads_run ON uploads (run);
CREATE INDEX ix_models_digest ON models (digest);
COMMIT;
