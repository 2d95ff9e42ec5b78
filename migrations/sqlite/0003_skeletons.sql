-- What names look like (UTS #39). Filled in by the program, which also folds all names anew.
ALTER TABLE users ADD COLUMN skeleton TEXT;
CREATE INDEX users_by_skeleton ON users (skeleton);
ALTER TABLE rooms ADD COLUMN skeleton TEXT;
CREATE INDEX rooms_by_skeleton ON rooms (skeleton);
