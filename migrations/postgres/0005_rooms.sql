-- The rooms that a user owns can be counted, and pages of public rooms skip no private ones.
CREATE INDEX rooms_by_owner ON rooms (created_by) WHERE name IS NOT NULL;
CREATE INDEX rooms_public ON rooms (name) WHERE kind = 0;
