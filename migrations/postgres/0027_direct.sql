-- Direct rooms (kind 2): the same people always find the same room. (usable_since stays: older programs take them for
-- private rooms.)
-- direct_key: the ids of a direct room's members, ascending, with '-' between.
ALTER TABLE rooms ADD COLUMN direct_key text COLLATE "C";
CREATE UNIQUE INDEX rooms_direct ON rooms (direct_key) WHERE direct_key IS NOT NULL AND name IS NOT NULL;

CREATE TABLE blocks (                                                  -- whom users have blocked
  user_id       bigint NOT NULL REFERENCES users ON DELETE CASCADE,
  blocked_id    bigint NOT NULL REFERENCES users ON DELETE CASCADE,
  at            bigint NOT NULL,
  PRIMARY KEY (user_id, blocked_id));
CREATE INDEX blocks_by_blocked ON blocks (blocked_id);

-- Both functions lock the users first, by ascending id. So two people who open a room with each other at the same
-- moment get one room, and no room is made beside a new block. They don't wait long for the locks: somebody who gives
-- a user another name may have stopped.

-- Finds the direct room of these people (ascending ids, one of which is the actor's) or makes it.
-- outcome: 'known', 'created', or a refusal: 'no_user', 'blocking' (the actor has blocked one of the others) or
-- 'blocked' (by one of them). room_name: the name of a new room, then of the one that was found.
CREATE FUNCTION open_direct(
  actor bigint, people bigint[], key text, room_epoch text, name_skeleton text,
  INOUT room_name text, OUT outcome text)
LANGUAGE plpgsql VOLATILE
SET lock_timeout = '1s'
AS $$
DECLARE
  known text;
  room bigint;
  now_ms bigint;
BEGIN
  PERFORM begin_change();
  PERFORM 1 FROM users u WHERE u.id = ANY (people) ORDER BY u.id FOR NO KEY UPDATE;
  SELECT r.name INTO known FROM rooms r WHERE r.direct_key = key AND r.name IS NOT NULL;
  IF FOUND THEN
    room_name := known;
    outcome := 'known';
    RETURN;
  END IF;
  outcome := CASE
    WHEN (SELECT count(*) FROM users u WHERE u.id = ANY (people)) < cardinality(people) THEN 'no_user'
    WHEN EXISTS (SELECT 1 FROM blocks b WHERE b.user_id = actor AND b.blocked_id = ANY (people)) THEN 'blocking'
    WHEN EXISTS (SELECT 1 FROM blocks b WHERE b.blocked_id = actor AND b.user_id = ANY (people)) THEN 'blocked'
    ELSE 'created'
  END;
  IF outcome <> 'created' THEN
    RETURN;
  END IF;
  now_ms := clock_ms();
  -- Nobody owns it: created_by is 0.
  INSERT INTO rooms (name, kind, title, title_key, size, members, epoch, created_by, created_at, skeleton, direct_key)
  VALUES (room_name, 2, '', '', cardinality(people), cardinality(people), room_epoch, 0, now_ms, name_skeleton, key)
  RETURNING id INTO STRICT room;
  INSERT INTO heads (room_id) VALUES (room);
  INSERT INTO members (room_id, user_id, role, joined_at, read_offset, read_number)
    SELECT room, p.id, 0, now_ms, 0, 0 FROM unnest(people) AS p(id);
END $$;

-- Records that a user has blocked another one. outcome: 'blocked' or a refusal: 'no_user' or 'too_many' (the user has
-- blocked as many as blocks_limit others).
CREATE FUNCTION block_user(blocker bigint, other bigint, blocks_limit bigint, OUT outcome text, OUT since_ms bigint)
LANGUAGE plpgsql VOLATILE
SET lock_timeout = '1s'
AS $$
BEGIN
  PERFORM begin_change();
  PERFORM 1 FROM users u WHERE u.id IN (blocker, other) ORDER BY u.id FOR NO KEY UPDATE;
  outcome := 'blocked';
  SELECT b.at INTO since_ms FROM blocks b WHERE b.user_id = blocker AND b.blocked_id = other;
  IF FOUND THEN
    RETURN;
  END IF;
  outcome := CASE
    WHEN (SELECT count(*) FROM users u WHERE u.id IN (blocker, other)) < 2 THEN 'no_user'
    WHEN (SELECT count(*) FROM blocks b WHERE b.user_id = blocker) >= blocks_limit THEN 'too_many'
    ELSE 'blocked'
  END;
  IF outcome = 'blocked' THEN
    since_ms := clock_ms();
    INSERT INTO blocks (user_id, blocked_id, at) VALUES (blocker, other, since_ms);
  END IF;
END $$;
