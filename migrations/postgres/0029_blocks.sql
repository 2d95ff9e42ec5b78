-- A block closes the direct room of the two: nobody can post there until neither has blocked the other. (usable_since
-- stays: nothing else called this function.)
DROP FUNCTION block_user;

-- Blocks a user, or lifts the block. outcome: 'done' or a refusal: 'no_user' or 'too_many' (the user has blocked as
-- many as blocks_limit others). since_ms: when the user was blocked. room and what follows: the publication of it in
-- the direct room of the two, if it was closed or opened.
CREATE FUNCTION set_block(
  blocker bigint, other bigint, is_wanted boolean, blocks_limit bigint,
  OUT outcome text, OUT since_ms bigint, OUT room bigint, OUT at_offset bigint, OUT at_number bigint, OUT at_ms bigint,
  OUT change_id text, OUT change_body text, OUT actor_name text)
LANGUAGE plpgsql VOLATILE
SET lock_timeout = '1s'
AS $$
DECLARE
  may_post smallint;
BEGIN
  PERFORM begin_change();
  -- By ascending id, as in `open_direct`.
  PERFORM 1 FROM users u WHERE u.id IN (blocker, other) ORDER BY u.id FOR NO KEY UPDATE;
  at_ms := clock_ms();
  SELECT b.at INTO since_ms FROM blocks b WHERE b.user_id = blocker AND b.blocked_id = other;
  IF NOT is_wanted THEN
    DELETE FROM blocks b WHERE b.user_id = blocker AND b.blocked_id = other;
  ELSIF since_ms IS NULL THEN
    outcome := CASE
      WHEN (SELECT count(*) FROM users u WHERE u.id IN (blocker, other)) < 2 THEN 'no_user'
      WHEN (SELECT count(*) FROM blocks b WHERE b.user_id = blocker) >= blocks_limit THEN 'too_many'
    END;
    IF outcome IS NOT NULL THEN
      RETURN;
    END IF;
    since_ms := at_ms;
    INSERT INTO blocks (user_id, blocked_id, at) VALUES (blocker, other, since_ms);
  END IF;
  outcome := 'done';

  SELECT r.id INTO room FROM rooms r
    WHERE r.direct_key = least(blocker, other) || '-' || greatest(blocker, other) AND r.name IS NOT NULL;
  IF room IS NULL OR NOT lock_room(room, true) THEN
    room := NULL;
    RETURN;
  END IF;
  may_post := CASE WHEN EXISTS (
    SELECT 1 FROM blocks b WHERE b.user_id IN (blocker, other) AND b.blocked_id IN (blocker, other)) THEN 2 ELSE 0 END;
  UPDATE heads h SET who_may_post = may_post WHERE h.room_id = room AND h.who_may_post <> may_post;
  IF NOT FOUND THEN
    room := NULL;
    RETURN;
  END IF;
  SELECT u.username INTO STRICT actor_name FROM users u WHERE u.id = blocker;
  change_body := '{"room":{"who_may_post":"' || CASE may_post WHEN 2 THEN 'nobody' ELSE 'members' END || '"}}';
  SELECT c.at_offset, c.at_number, c.change_id INTO at_offset, at_number, change_id
    FROM publish_moderated(room, blocker, 'room', change_body, NULL, at_ms) c;
END $$;
