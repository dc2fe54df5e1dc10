-- Whoever records asks for the open intents of other processes about the same objects, however many there are.
{shared}CREATE INDEX sidecar_intents_uri ON sidecar_intents USING hash (uri);
