-- The users of other systems: which user an issuer and its id of a user stand for. The subject comes first, so that a
-- user can be looked up by it alone. (usable_since stays: older programs know no tokens of other systems.)
CREATE TABLE identities (
  subject       text COLLATE "C" NOT NULL,
  issuer        text COLLATE "C" NOT NULL,                           -- the URL of an identity provider, or 'hmac'
  user_id       bigint NOT NULL REFERENCES users ON DELETE CASCADE,
  created_at    bigint NOT NULL,
  PRIMARY KEY (subject, issuer));
CREATE INDEX identities_by_user ON identities (user_id);
