-- What each node serves, as it last told; NULL until it has. (usable_since stays: older programs leave it NULL.)
ALTER TABLE nodes
  ADD COLUMN connections bigint,
  ADD COLUMN users bigint,
  ADD COLUMN subscriptions bigint,
  ADD COLUMN channels bigint;
