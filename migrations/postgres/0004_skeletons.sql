-- What names look like (UTS #39). Filled in by the program, which also folds all names anew.
ALTER TABLE users ADD COLUMN skeleton text COLLATE "C";
CREATE INDEX users_by_skeleton ON users (skeleton);
ALTER TABLE rooms ADD COLUMN skeleton text COLLATE "C";
CREATE INDEX rooms_by_skeleton ON rooms (skeleton);
