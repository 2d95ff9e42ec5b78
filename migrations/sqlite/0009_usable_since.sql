-- The oldest schema version whose programs can use this database. A program that knows only versions from there on
-- starts on a newer schema, too. A migration that such programs could not live with raises it to its own version.
INSERT INTO meta (name, value) VALUES ('usable_since', '8');
