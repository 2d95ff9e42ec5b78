-- What a reader of the log must know of a batch to repeat it, and whether the reader is paused. (usable_since stays:
-- older programs do without.)
ALTER TABLE readers ADD COLUMN paused_at bigint NOT NULL DEFAULT 0;    -- since when; 0: it is not
ALTER TABLE positions ADD COLUMN batch_note text NOT NULL DEFAULT '';  -- the reader's own words about the batch
