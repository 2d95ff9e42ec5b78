-- The users of other systems: which user an issuer and its id of a user stand for. The subject comes first, so that a
-- user can be looked up by it alone. (usable_since stays: older programs know no tokens of other systems.)
CREATE TABLE identities (
  subject       TEXT NOT NULL,
  issuer        TEXT NOT NULL,                       -- the URL of an identity provider, or 'hmac'
  user_id       INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
  created_at    INTEGER NOT NULL,
  PRIMARY KEY (subject, issuer)
) STRICT, WITHOUT ROWID;
CREATE INDEX identities_by_user ON identities (user_id);
