-- The rooms that a user owns can be counted, and pages of public rooms skip no private ones.
CREATE INDEX rooms_by_owner ON rooms (created_by) WHERE name IS NOT NULL;
CREATE INDEX rooms_public ON rooms (name) WHERE kind = 0;

-- Rooms are found by any three characters in a row, if the server has the extension (it comes with PostgreSQL, but some
-- systems package it separately). Without it, a search goes through the rooms by name.
DO $$
BEGIN
  CREATE EXTENSION IF NOT EXISTS pg_trgm;
  CREATE INDEX rooms_search ON rooms USING gin (name gin_trgm_ops, title_key gin_trgm_ops) WHERE kind = 0;
EXCEPTION WHEN OTHERS THEN
  RAISE WARNING 'searches for rooms have no index: %', SQLERRM;
END
$$;
