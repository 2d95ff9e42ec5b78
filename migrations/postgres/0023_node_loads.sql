-- What each node serves, as it last told. (usable_since stays: older programs leave it at 0.)
ALTER TABLE nodes
  ADD COLUMN connections bigint NOT NULL DEFAULT 0,
  ADD COLUMN users bigint NOT NULL DEFAULT 0,
  ADD COLUMN subscriptions bigint NOT NULL DEFAULT 0,
  ADD COLUMN channels bigint NOT NULL DEFAULT 0;
