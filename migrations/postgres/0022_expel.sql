-- Ends a membership without checking the actor's rights: for the server API, whose actor is the bot user. It has the
-- outcomes and columns of remove_member. (usable_since stays: older programs do without it.)
CREATE FUNCTION expel_member(
  left_room bigint, actor bigint, wanted_user bigint,
  OUT outcome text, OUT member bigint, OUT at_offset bigint, OUT at_number bigint, OUT at_ms bigint,
  OUT change_id text, OUT change_body text, OUT actor_name text)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  member_role bigint;
BEGIN
  PERFORM begin_change();
  IF NOT lock_room(left_room, true) THEN
    outcome := 'no_room';
    RETURN;
  END IF;
  SELECT m.role INTO member_role FROM members m WHERE m.room_id = left_room AND m.user_id = wanted_user;
  outcome := CASE
    WHEN member_role IS NULL THEN 'not_member'
    WHEN member_role = 2 THEN 'owner_stays'
    WHEN NOT EXISTS (SELECT 1 FROM users a WHERE a.id = actor) THEN 'no_user'
    ELSE 'removed'
  END;
  IF outcome <> 'removed' THEN
    RETURN;
  END IF;
  member := wanted_user;
  at_ms := clock_ms();
  DELETE FROM members m WHERE m.room_id = left_room AND m.user_id = wanted_user;
  UPDATE rooms SET members = members - 1 WHERE id = left_room;
  SELECT c.at_offset, c.at_number, c.change_id, c.change_body, c.actor_name
    INTO at_offset, at_number, change_id, change_body, actor_name
    FROM publish_change(left_room, 5::smallint, actor, wanted_user, at_ms) c;
END $$;
