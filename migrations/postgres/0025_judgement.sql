-- The function of migration 19, which now judges who may post. For two of the refusals, at_ms says how long they last:
-- for 'silenced' it is the time at which that ends, for 'slow_mode' the wait in milliseconds.
-- (usable_since stays: older programs take such an outcome for a refusal whose reason they do not know.)
CREATE OR REPLACE FUNCTION append(
  item_rooms bigint[], item_users bigint[], item_ids text[], item_kinds smallint[], item_targets bigint[],
  item_bodies text[], void_ms bigint, item_metas text[])
RETURNS TABLE (item bigint, outcome text, at_offset bigint, at_number bigint, at_ms bigint)
LANGUAGE plpgsql VOLATILE
-- Statistics of a young table mislead the planner.
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
  x record;        -- an item, the head of its room, its sender's role there
  old messages;    -- what the sender stored under this id before
  meant messages;  -- the target
  room bigint;     -- whose head these two are; items come room by room
  head_offset bigint;
  head_number bigint;
  moved boolean := false;
  kinds bigint;    -- of reactions to a message
  own_kinds bigint;
  is_kind boolean;
  has_slow_rooms boolean;
  posted_ms bigint;  -- when the sender last posted in a room with slow mode
  wait_ms bigint;
  now_ms bigint;
BEGIN
  PERFORM begin_change();

  -- In its own statement: a statement's snapshot is older than the locks that it waits for, so one that locked and
  -- judged would see the new head but not the row that made it. Ascending, so that two batches never wait for each
  -- other in a ring.
  SELECT bool_or(locked.slow_mode_seconds > 0) INTO has_slow_rooms FROM (
    SELECT h.slow_mode_seconds FROM heads h WHERE h.room_id = ANY (item_rooms) ORDER BY h.room_id FOR NO KEY UPDATE
  ) locked;
  IF has_slow_rooms THEN
    -- Also ascending, as the rows of members are locked when read markers move.
    PERFORM 1 FROM members m JOIN heads h ON h.room_id = m.room_id
      WHERE h.slow_mode_seconds > 0
        AND (m.room_id, m.user_id) IN (SELECT * FROM unnest(item_rooms, item_users))
      ORDER BY m.room_id, m.user_id FOR NO KEY UPDATE OF m;
  END IF;
  now_ms := clock_ms();
  IF now_ms > void_ms THEN
    RAISE 'the append came too late' USING ERRCODE = 'UP001';
  END IF;

  FOR x IN
    SELECT i.*, h.last_offset, h.last_number, h.slow_mode_seconds, h.who_may_post, m.role,
      CASE WHEN m.silenced_until > now_ms THEN m.silenced_until END AS silenced_until,
      -- Whether the member may post without any of the following being looked at.
      coalesce(m.silenced_until <= now_ms, true) AND (
        h.who_may_post = 0 AND h.slow_mode_seconds = 0 OR m.role > 0 AND h.who_may_post < 2) AS is_free
    FROM unnest(item_rooms, item_users, item_ids, item_kinds, item_targets, item_bodies, item_metas) WITH ORDINALITY
      AS i(room_id, user_id, client_id, kind, target, body, meta, n)
    LEFT JOIN heads h ON h.room_id = i.room_id
    LEFT JOIN members m ON m.room_id = i.room_id AND m.user_id = i.user_id
    ORDER BY i.room_id, i.n
  LOOP
    IF room IS DISTINCT FROM x.room_id THEN
      IF moved THEN
        UPDATE heads SET last_offset = head_offset, last_number = head_number WHERE room_id = room;
        moved := false;
      END IF;
      room := x.room_id;
      head_offset := x.last_offset;
      head_number := x.last_number;
    END IF;

    item := x.n;
    at_offset := NULL;
    at_number := NULL;
    at_ms := NULL;

    IF head_offset IS NULL THEN
      outcome := 'no_room';
      RETURN NEXT;
      CONTINUE;
    END IF;

    -- A plain message of a member, by far the most frequent: the unique index is asked by inserting.
    IF x.kind = 0 AND x.target IS NULL AND x.role IS NOT NULL AND x.is_free THEN
      INSERT INTO messages (room_id, room_offset, number, kind, user_id, client_id, body, created_at, meta)
      VALUES (room, head_offset + 1, head_number + 1, 0, x.user_id, x.client_id, x.body, now_ms, x.meta)
      ON CONFLICT ON CONSTRAINT messages_by_sender DO NOTHING;
      IF FOUND THEN
        head_offset := head_offset + 1;
        head_number := head_number + 1;
        moved := true;
        outcome := 'new';
        at_offset := head_offset;
        at_number := head_number;
        at_ms := now_ms;
        RETURN NEXT;
        CONTINUE;
      END IF;
    END IF;

    SELECT * INTO old FROM messages s
      WHERE s.room_id = room AND s.user_id = x.user_id AND s.client_id = x.client_id;
    IF FOUND THEN
      -- The text of an edit and the first text of an edited or deleted message are not kept: the id alone decides.
      IF old.kind = x.kind AND old.target_offset IS NOT DISTINCT FROM x.target
        AND (old.body = x.body AND old.meta IS NOT DISTINCT FROM x.meta OR old.body IS NULL
          OR old.edit_offset IS NOT NULL)
      THEN
        outcome := 'again';
        at_offset := old.room_offset;
        at_number := old.number;
        at_ms := old.created_at;
      ELSE
        outcome := 'id_reused';
      END IF;
      RETURN NEXT;
      CONTINUE;
    END IF;

    IF x.role IS NULL THEN
      outcome := 'not_member';
      RETURN NEXT;
      CONTINUE;
    END IF;

    -- Who is silenced may still take back what they have said.
    IF x.silenced_until IS NOT NULL AND x.kind IN (0, 1, 3) THEN
      outcome := 'silenced';
      at_ms := x.silenced_until;
      RETURN NEXT;
      CONTINUE;
    END IF;
    IF x.kind = 0 AND NOT x.is_free THEN
      IF x.who_may_post > 0 AND x.role = 0 OR x.who_may_post > 1 THEN
        outcome := CASE WHEN x.who_may_post = 1 THEN 'moderators_only' ELSE 'nobody_posts' END;
        RETURN NEXT;
        CONTINUE;
      END IF;
      -- An earlier item of this batch may have changed it.
      SELECT m.last_posted_at INTO posted_ms FROM members m WHERE m.room_id = room AND m.user_id = x.user_id;
      wait_ms := x.slow_mode_seconds * 1000::bigint;
      -- A time far in the future is that of a clock which has gone back since.
      IF abs(now_ms - posted_ms) < wait_ms THEN
        outcome := 'slow_mode';
        at_ms := least(posted_ms + wait_ms - now_ms, wait_ms);
        RETURN NEXT;
        CONTINUE;
      END IF;
    END IF;

    IF x.target IS NOT NULL THEN
      SELECT * INTO meant FROM messages t WHERE t.room_id = room AND t.room_offset = x.target AND t.kind = 0;
      IF NOT FOUND OR meant.gone_offset IS NOT NULL AND x.kind IN (1, 3, 4) THEN
        outcome := 'no_target';
        RETURN NEXT;
        CONTINUE;
      ELSIF x.kind = 1 AND meant.user_id <> x.user_id OR x.kind = 2 AND meant.user_id <> x.user_id AND x.role = 0 THEN
        outcome := 'not_yours';
        RETURN NEXT;
        CONTINUE;
      ELSIF x.kind = 2 AND meant.gone_offset IS NOT NULL THEN
        SELECT * INTO old FROM messages d WHERE d.room_id = room AND d.room_offset = meant.gone_offset;
        outcome := 'again';
        at_offset := old.room_offset;
        at_number := old.number;
        at_ms := old.created_at;
        RETURN NEXT;
        CONTINUE;
      END IF;
    END IF;

    IF x.kind IN (3, 4) THEN
      IF (x.kind = 3) = EXISTS (SELECT 1 FROM reactions r WHERE r.room_id = room AND r.room_offset = x.target
        AND r.emoji = x.body AND r.user_id = x.user_id)
      THEN
        outcome := 'again';
        at_offset := meant.room_offset;
        at_number := meant.number;
        at_ms := meant.created_at;
        RETURN NEXT;
        CONTINUE;
      END IF;
      -- At most 20 kinds of reactions to a message, 5 of them of one user. Each kind is one probe of an index.
      IF x.kind = 3 THEN
        SELECT count(*), coalesce(bool_or(k.emoji = x.body), false), count(r.user_id) INTO kinds, is_kind, own_kinds
          FROM reaction_kinds k LEFT JOIN reactions r ON r.room_id = k.room_id AND r.room_offset = k.room_offset
            AND r.emoji = k.emoji AND r.user_id = x.user_id
          WHERE k.room_id = room AND k.room_offset = x.target;
        IF own_kinds >= 5 OR kinds >= 20 AND NOT is_kind THEN
          outcome := 'too_many';
          RETURN NEXT;
          CONTINUE;
        END IF;
      END IF;
    END IF;

    head_offset := head_offset + 1;
    head_number := head_number + (x.kind = 0)::int;
    moved := true;
    INSERT INTO messages (room_id, room_offset, number, kind, user_id, client_id, target_offset, body, created_at, meta)
    VALUES (room, head_offset, head_number, x.kind, x.user_id, x.client_id, x.target,
      CASE WHEN x.kind NOT IN (1, 2) THEN x.body END, now_ms, x.meta);
    CASE x.kind
      WHEN 0 THEN
        IF x.slow_mode_seconds > 0 AND x.role = 0 THEN
          UPDATE members m SET last_posted_at = now_ms WHERE m.room_id = room AND m.user_id = x.user_id;
        END IF;
      WHEN 1 THEN
        UPDATE messages t SET body = x.body, edit_offset = head_offset
        WHERE t.room_id = room AND t.room_offset = x.target;
      WHEN 2 THEN
        UPDATE messages t SET body = NULL, meta = NULL, gone_offset = head_offset
        WHERE t.room_id = room AND t.room_offset = x.target;
        DELETE FROM reactions r WHERE r.room_id = room AND r.room_offset = x.target;
        DELETE FROM reaction_kinds k WHERE k.room_id = room AND k.room_offset = x.target;
      WHEN 3 THEN
        INSERT INTO reactions (room_id, room_offset, emoji, user_id) VALUES (room, x.target, x.body, x.user_id);
        INSERT INTO reaction_kinds AS k (room_id, room_offset, emoji, since, users)
        VALUES (room, x.target, x.body, head_offset, 1)
        ON CONFLICT (room_id, room_offset, emoji) DO UPDATE SET users = k.users + 1;
      WHEN 4 THEN
        DELETE FROM reactions r
        WHERE r.room_id = room AND r.room_offset = x.target AND r.emoji = x.body AND r.user_id = x.user_id;
        UPDATE reaction_kinds k SET users = k.users - 1
        WHERE k.room_id = room AND k.room_offset = x.target AND k.emoji = x.body;
        DELETE FROM reaction_kinds k
        WHERE k.room_id = room AND k.room_offset = x.target AND k.emoji = x.body AND k.users <= 0;
      ELSE
        NULL;
    END CASE;
    outcome := 'new';
    at_offset := head_offset;
    at_number := head_number;
    at_ms := now_ms;
    RETURN NEXT;
  END LOOP;
  IF moved THEN
    UPDATE heads SET last_offset = head_offset, last_number = head_number WHERE room_id = room;
  END IF;
END $$;
