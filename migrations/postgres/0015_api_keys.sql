-- Keys of the server API, and the log of what is done with them. (usable_since stays: older programs know neither.)

CREATE TABLE api_keys (
  name          text COLLATE "C" PRIMARY KEY,
  key_hash      text COLLATE "C" NOT NULL UNIQUE,   -- SHA-256 in hexadecimal; the key itself is stored nowhere
  user_id       bigint NOT NULL,   -- the bot user, whose messages the key publishes
  scopes        text NOT NULL,   -- words separated by commas
  users         text NOT NULL,   -- how the key names users: 'id', 'subject' or 'username'
  created_at    bigint NOT NULL);

CREATE TABLE audit (   -- the newest rows are kept
  id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at            bigint NOT NULL,   -- the last time, if it was done several times
  actor         text NOT NULL,   -- 'key NAME' or 'operator'
  action        text NOT NULL,   -- the method
  target        text NOT NULL,   -- the channel or user
  outcome       bigint NOT NULL,   -- the error code; 0: it was done
  times         bigint NOT NULL);   -- equal actions that follow closely share a row

-- Makes a user a member of a room, whoever asks for it: the server API, with the bot user as the actor. Otherwise like
-- join_rooms, whose outcomes and columns it has.
CREATE FUNCTION enroll_member(wanted_room bigint, wanted_user bigint, actor bigint, shown_limit bigint)
RETURNS TABLE (
  outcome text, member_role bigint, since_ms bigint, at_offset bigint, at_number bigint, change_id text,
  change_body text, actor_name text)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  facts record;
  has_head boolean;
  is_there boolean;
  now_ms bigint;
BEGIN
  PERFORM begin_change();
  -- As in join_rooms: only a publication needs the head's lock.
  has_head := coalesce((SELECT r.members < shown_limit FROM rooms r WHERE r.id = wanted_room), false);
  is_there := lock_room(wanted_room, has_head);
  now_ms := clock_ms();
  SELECT r.members, r.size, h.last_offset, h.last_number, m.role, m.joined_at,
    EXISTS (SELECT 1 FROM users u WHERE u.id = wanted_user)
      AND EXISTS (SELECT 1 FROM users a WHERE a.id = actor) AS are_users
    INTO facts
    FROM rooms r JOIN heads h ON h.room_id = r.id
    LEFT JOIN members m ON m.room_id = r.id AND m.user_id = wanted_user
    WHERE r.id = wanted_room AND is_there;
  outcome := CASE
    WHEN facts.members IS NULL THEN 'no_room'
    WHEN facts.role IS NOT NULL THEN 'member'
    WHEN facts.members >= facts.size THEN 'full'
    WHEN NOT facts.are_users THEN 'no_user'
    ELSE 'joined'
  END;
  IF outcome IN ('member', 'joined') THEN
    member_role := coalesce(facts.role, 0);
    since_ms := coalesce(facts.joined_at, now_ms);
    at_offset := facts.last_offset;
    at_number := facts.last_number;
  END IF;
  IF outcome = 'joined' THEN
    -- The read marker starts at the head: nothing from before is unread.
    INSERT INTO members (room_id, user_id, role, joined_at, read_offset, read_number)
    VALUES (wanted_room, wanted_user, 0, now_ms, facts.last_offset, facts.last_number);
    UPDATE rooms SET members = members + 1 WHERE id = wanted_room;
    IF has_head AND facts.members < shown_limit THEN
      SELECT c.at_offset, c.at_number, c.change_id, c.change_body, c.actor_name
        INTO at_offset, at_number, change_id, change_body, actor_name
        FROM publish_change(wanted_room, 7::smallint, actor, wanted_user, now_ms) c;
    END IF;
  END IF;
  RETURN NEXT;
END $$;

CREATE TABLE former_names (   -- of users who were renamed; they still lead to these users
  name_key      text COLLATE "C" PRIMARY KEY,
  username      text NOT NULL,
  skeleton      text COLLATE "C" NOT NULL,
  user_id       bigint NOT NULL);
CREATE INDEX former_names_skeleton ON former_names (skeleton);
CREATE INDEX former_names_user ON former_names (user_id);
