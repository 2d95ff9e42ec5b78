-- What locks the head of a room is one statement outside BEGIN, as `append` is: no network lies between the lock and
-- the commit, so a process that stops anywhere holds up nobody.

-- Each of these functions calls this one first. A commit counts once it is on disk, and on the disk or at least in the
-- system of a synchronous standby if there is one: 'local' and 'off' do not wait for that, and a failover would lose
-- what was acknowledged. 'remote_write' does: only the loss of both machines at once could undo it.
CREATE FUNCTION begin_change() RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE 'a change of a room needs READ COMMITTED';
  END IF;
  IF current_setting('synchronous_commit') NOT IN ('on', 'remote_apply', 'remote_write') THEN
    PERFORM set_config('synchronous_commit', 'on', true);
  END IF;
END $$;

CREATE FUNCTION clock_ms() RETURNS bigint LANGUAGE sql VOLATILE
  AS 'SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)';

-- Keeps others from changing the members of a room, and with the head also from appending to it. The head comes first,
-- and several rooms in ascending order, so that two changes never wait for each other in a ring. false: there is no
-- such room.
CREATE FUNCTION lock_room(locked_room bigint, with_head boolean) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  IF with_head THEN
    PERFORM 1 FROM heads h WHERE h.room_id = locked_room FOR NO KEY UPDATE;
    IF NOT FOUND THEN
      RETURN false;
    END IF;
  END IF;
  PERFORM 1 FROM rooms r WHERE r.id = locked_room AND r.name IS NOT NULL FOR NO KEY UPDATE;
  RETURN FOUND;
END $$;

-- Appends a change of membership: kind 5 (removed) or 7 (added). The caller has locked the head.
CREATE FUNCTION publish_change(
  changed_room bigint, change_kind smallint, actor bigint, member bigint, changed_ms bigint,
  OUT at_offset bigint, OUT at_number bigint, OUT change_id text, OUT change_body text, OUT actor_name text)
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  UPDATE heads SET last_offset = last_offset + 1 WHERE room_id = changed_room
    RETURNING last_offset, last_number INTO STRICT at_offset, at_number;
  -- Unique, as the offset is; no sender's id begins with a tilde.
  change_id := CASE change_kind WHEN 7 THEN '~added-' ELSE '~removed-' END || at_offset;
  SELECT a.username, m.id || ' ' || m.username INTO STRICT actor_name, change_body
    FROM users a, users m WHERE a.id = actor AND m.id = member;
  INSERT INTO messages (room_id, room_offset, number, kind, user_id, client_id, body, created_at)
  VALUES (changed_room, at_offset, at_number, change_kind, actor, change_id, change_body, changed_ms);
END $$;

-- Makes users members of rooms. Without an adder they join by themselves, which is possible in public rooms only. A
-- room that then has at most shown_limit members tells of it.
-- outcome: 'joined', 'member' (already), or a refusal. at_offset is the last offset of the room for the first two, and
-- change_id to actor_name are set if a publication has it.
CREATE FUNCTION join_rooms(wanted_rooms bigint[], wanted_users bigint[], adder bigint, shown_limit bigint)
RETURNS TABLE (
  item bigint, outcome text, member_role bigint, since_ms bigint, at_offset bigint, at_number bigint, change_id text,
  change_body text, actor_name text)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  x record;       -- a user and a room
  facts record;   -- about both
  room bigint;    -- which is locked; they come room by room
  is_there boolean;
  has_head boolean;
  now_ms bigint;
BEGIN
  PERFORM begin_change();
  FOR x IN
    SELECT w.* FROM unnest(wanted_rooms, wanted_users) WITH ORDINALITY AS w(room_id, user_id, n) ORDER BY w.room_id, w.n
  LOOP
    IF room IS DISTINCT FROM x.room_id THEN
      room := x.room_id;
      -- A publication needs the head's lock. In a larger room, where joins are not published, they do without it, so
      -- that they don't hold up the messages.
      has_head := coalesce((SELECT r.members < shown_limit FROM rooms r WHERE r.id = room), false);
      is_there := lock_room(room, has_head);
      now_ms := clock_ms();
    END IF;

    item := x.n;
    outcome := NULL;
    member_role := NULL;
    since_ms := NULL;
    at_offset := NULL;
    at_number := NULL;
    change_id := NULL;
    change_body := NULL;
    actor_name := NULL;

    SELECT r.kind, r.members, r.size, h.last_offset, h.last_number, m.role, m.joined_at, a.role AS adder_role,
      EXISTS (SELECT 1 FROM users u WHERE u.id = x.user_id) AS is_user
      INTO facts
      FROM rooms r JOIN heads h ON h.room_id = r.id
      LEFT JOIN members m ON m.room_id = r.id AND m.user_id = x.user_id
      LEFT JOIN members a ON a.room_id = r.id AND a.user_id = adder
      WHERE r.id = room AND is_there;
    outcome := CASE
      WHEN facts.kind IS NULL THEN 'no_room'
      WHEN adder IS NOT NULL AND facts.kind <> 0 AND facts.adder_role IS NULL THEN 'no_room'
      WHEN adder IS NOT NULL AND coalesce(facts.adder_role, 0) < 1 THEN 'cannot_add'
      WHEN facts.role IS NOT NULL THEN 'member'
      WHEN adder IS NULL AND facts.kind <> 0 THEN 'no_room'
      WHEN facts.members >= facts.size THEN 'full'
      WHEN NOT facts.is_user THEN 'no_user'
      ELSE 'joined'
    END;

    IF outcome = 'member' THEN
      member_role := facts.role;
      since_ms := facts.joined_at;
      at_offset := facts.last_offset;
      at_number := facts.last_number;
    ELSIF outcome = 'joined' THEN
      -- The read marker starts at the head: nothing from before the join is unread.
      INSERT INTO members (room_id, user_id, role, joined_at, read_offset, read_number)
      VALUES (room, x.user_id, 0, now_ms, facts.last_offset, facts.last_number);
      UPDATE rooms SET members = members + 1 WHERE id = room;
      member_role := 0;
      since_ms := now_ms;
      at_offset := facts.last_offset;
      at_number := facts.last_number;
      IF has_head AND facts.members < shown_limit THEN
        SELECT c.at_offset, c.at_number, c.change_id, c.change_body, c.actor_name
          INTO at_offset, at_number, change_id, change_body, actor_name
          FROM publish_change(room, 7::smallint, coalesce(adder, x.user_id), x.user_id, now_ms) c;
      END IF;
    END IF;
    RETURN NEXT;
  END LOOP;
END $$;

-- Ends a membership and appends the publication of it. The same rules are in Rust, for SQLite (`may_remove`).
-- outcome: 'removed' or a refusal; the others are set for the first.
CREATE FUNCTION remove_member(
  left_room bigint, actor bigint, member_key text,
  OUT outcome text, OUT member bigint, OUT at_offset bigint, OUT at_number bigint, OUT at_ms bigint,
  OUT change_id text, OUT change_body text, OUT actor_name text)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  facts record;
BEGIN
  PERFORM begin_change();
  IF NOT lock_room(left_room, true) THEN
    outcome := 'no_room';
    RETURN;
  END IF;
  SELECT r.kind, a.role AS actor_role, u.id AS member, m.role INTO STRICT facts
    FROM rooms r
    LEFT JOIN members a ON a.room_id = r.id AND a.user_id = actor
    LEFT JOIN users u ON u.username_key = member_key AND EXISTS (SELECT 1 FROM users x WHERE x.id = actor)
    LEFT JOIN members m ON m.room_id = r.id AND m.user_id = u.id
    WHERE r.id = left_room;
  outcome := CASE
    WHEN facts.kind <> 0 AND facts.actor_role IS NULL THEN 'no_room'
    WHEN facts.member IS NULL THEN 'no_user'
    WHEN facts.member <> actor AND coalesce(facts.actor_role, 0) < 1 THEN 'cannot_remove'
    WHEN facts.role IS NULL THEN 'not_member'
    WHEN facts.role = 2 AND facts.member = actor THEN 'owner_leaves'
    WHEN facts.role = 2 THEN 'owner_stays'
    WHEN facts.member <> actor AND facts.actor_role = 1 AND facts.role = 1 THEN 'moderator_stays'
    ELSE 'removed'
  END;
  IF outcome <> 'removed' THEN
    RETURN;
  END IF;
  member := facts.member;
  at_ms := clock_ms();
  DELETE FROM members m WHERE m.room_id = left_room AND m.user_id = member;
  UPDATE rooms SET members = members - 1 WHERE id = left_room;
  SELECT c.at_offset, c.at_number, c.change_id, c.change_body, c.actor_name
    INTO at_offset, at_number, change_id, change_body, actor_name
    FROM publish_change(left_room, 5::smallint, actor, member, at_ms) c;
END $$;

-- Deletes a room's head and its name, which is reserved for the owner. Returns 'deleted' or a refusal.
-- names_limit: how many names are reserved for one owner.
CREATE FUNCTION delete_room(
  deleted_room bigint, actor bigint, reserved_ms bigint, name_skeleton text, names_limit bigint)
RETURNS text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  room_name text;
  facts record;
  now_ms bigint;
BEGIN
  PERFORM begin_change();
  IF NOT lock_room(deleted_room, true) THEN
    RETURN 'no_room';
  END IF;
  SELECT r.name, r.kind, m.role INTO STRICT facts
    FROM rooms r LEFT JOIN members m ON m.room_id = r.id AND m.user_id = actor WHERE r.id = deleted_room;
  IF facts.kind <> 0 AND facts.role IS NULL THEN
    RETURN 'no_room';
  ELSIF facts.role IS DISTINCT FROM 2 THEN
    RETURN 'cannot_delete';
  END IF;
  -- The head first: an append that waits for its lock then finds that the room is gone.
  DELETE FROM heads WHERE room_id = deleted_room;
  UPDATE rooms SET name = NULL WHERE id = deleted_room;

  now_ms := clock_ms();
  INSERT INTO reserved_names (name, owner_id, until, skeleton)
  VALUES (facts.name, actor, now_ms + least(reserved_ms, 9223372036854775807 - now_ms), name_skeleton)
  ON CONFLICT (name) DO UPDATE SET owner_id = excluded.owner_id, until = excluded.until;
  -- Rows that the creation of a room has locked are skipped: a creation is several statements, and this one must not
  -- wait for a process that has stopped between two of them.
  DELETE FROM reserved_names WHERE name IN (
    SELECT n.name FROM reserved_names n WHERE n.until <= now_ms AND n.name <> facts.name FOR UPDATE SKIP LOCKED);
  DELETE FROM reserved_names WHERE name IN (
    SELECT n.name FROM reserved_names n WHERE n.owner_id = actor AND n.name NOT IN (
      SELECT latest.name FROM reserved_names latest WHERE latest.owner_id = actor ORDER BY latest.until DESC
      LIMIT names_limit)
    FOR UPDATE SKIP LOCKED);
  RETURN 'deleted';
END $$;

-- The function of migration 8 with one more argument: by the database's clock, the time after which this attempt is
-- void. A process that stops may have sent an attempt that arrives much later, when another process has long been told
-- that the item is refused. It is checked once the heads are locked: then a later attempt waits for the outcome of this
-- one.
CREATE FUNCTION append(
  item_rooms bigint[], item_users bigint[], item_ids text[], item_kinds smallint[], item_targets bigint[],
  item_bodies text[], void_ms bigint)
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
  now_ms bigint;
BEGIN
  PERFORM begin_change();

  -- In its own statement: a statement's snapshot is older than the locks that it waits for, so one that locked and
  -- judged would see the new head but not the row that made it. Ascending, so that two batches never wait for each
  -- other in a ring.
  PERFORM 1 FROM heads h WHERE h.room_id = ANY (item_rooms) ORDER BY h.room_id FOR NO KEY UPDATE;
  now_ms := clock_ms();
  IF now_ms > void_ms THEN
    RAISE 'the append came too late' USING ERRCODE = 'UP001';
  END IF;

  FOR x IN
    SELECT i.*, h.last_offset, h.last_number, m.role
    FROM unnest(item_rooms, item_users, item_ids, item_kinds, item_targets, item_bodies) WITH ORDINALITY
      AS i(room_id, user_id, client_id, kind, target, body, n)
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
    IF x.kind = 0 AND x.target IS NULL AND x.role IS NOT NULL THEN
      INSERT INTO messages (room_id, room_offset, number, kind, user_id, client_id, body, created_at)
      VALUES (room, head_offset + 1, head_number + 1, 0, x.user_id, x.client_id, x.body, now_ms)
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
        AND (old.body = x.body OR old.body IS NULL OR old.edit_offset IS NOT NULL)
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
    INSERT INTO messages (room_id, room_offset, number, kind, user_id, client_id, target_offset, body, created_at)
    VALUES (room, head_offset, head_number, x.kind, x.user_id, x.client_id, x.target,
      CASE WHEN x.kind NOT IN (1, 2) THEN x.body END, now_ms);
    CASE x.kind
      WHEN 1 THEN
        UPDATE messages t SET body = x.body, edit_offset = head_offset
        WHERE t.room_id = room AND t.room_offset = x.target;
      WHEN 2 THEN
        UPDATE messages t SET body = NULL, gone_offset = head_offset
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

-- For releases that know no such time.
CREATE OR REPLACE FUNCTION append(
  item_rooms bigint[], item_users bigint[], item_ids text[], item_kinds smallint[], item_targets bigint[],
  item_bodies text[])
RETURNS TABLE (item bigint, outcome text, at_offset bigint, at_number bigint, at_ms bigint)
LANGUAGE sql VOLATILE
AS 'SELECT * FROM append(item_rooms, item_users, item_ids, item_kinds, item_targets, item_bodies, NULL)';

-- The oldest schema version whose programs can use this database. A program that knows only versions from there on
-- starts on a newer schema, too. A migration that such programs could not live with raises it to its own version.
INSERT INTO meta (name, value) VALUES ('usable_since', '10');
