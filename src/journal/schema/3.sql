-- What is said of a write beside what it writes, as JSON.
ALTER TABLE sidecar_intents ADD COLUMN note TEXT;
