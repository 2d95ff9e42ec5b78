-- Users whom a backend has blocked. (usable_since stays: older programs do without; they let blocked users sign in.)
ALTER TABLE users ADD COLUMN blocked_at INTEGER;          -- NULL: not blocked; changes together with token_generation
CREATE INDEX users_blocked ON users (id) WHERE blocked_at IS NOT NULL;
