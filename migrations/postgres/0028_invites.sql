-- Invites: those who know the code of one may join its room, or sign up. Without foreign keys, so that no lock of a
-- room is held between two statements. (usable_since stays: older programs do without.)
CREATE TABLE invites (
  code          text COLLATE "C" PRIMARY KEY,
  room_id       bigint NOT NULL,                     -- 0: it only lets people sign up
  created_by    bigint NOT NULL,                     -- 0: the operator
  created_at    bigint NOT NULL,
  expires_at    bigint NOT NULL,
  uses          bigint NOT NULL DEFAULT 0,
  uses_limit    bigint,                              -- NULL: none
  revoked_at    bigint);
CREATE INDEX invites_by_room ON invites (room_id);

-- 'valid', or why an invite can't be used. The same rules are in Rust (`state_sql`). NULL: there is none.
CREATE FUNCTION invite_state(given_code text, now_ms bigint) RETURNS text LANGUAGE sql VOLATILE AS $$
  SELECT CASE
    WHEN i.revoked_at IS NOT NULL THEN 'invite_revoked'
    WHEN i.expires_at <= now_ms THEN 'invite_expired'
    WHEN i.uses >= i.uses_limit THEN 'invite_used_up'
    WHEN i.created_by <> 0 AND NOT EXISTS (
      SELECT 1 FROM members m JOIN users u ON u.id = m.user_id
      WHERE m.room_id = i.room_id AND m.user_id = i.created_by AND r.who_may_invite < 2
        AND m.role >= r.who_may_invite AND u.blocked_at IS NULL) THEN 'invite_void'
    ELSE 'valid'
  END
  FROM invites i LEFT JOIN rooms r ON r.id = i.room_id WHERE i.code = given_code
$$;

-- Makes a user a member of the room of an invite, and counts it as a use unless the user is one already. It has the
-- columns of enroll_member, and more outcomes: 'no_invite' and those of invite_state.
CREATE FUNCTION accept_invite(given_code text, new_member bigint, shown_limit bigint)
RETURNS TABLE (
  outcome text, member_role bigint, since_ms bigint, at_offset bigint, at_number bigint, change_id text,
  change_body text, actor_name text)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  room bigint;
BEGIN
  PERFORM begin_change();
  SELECT i.room_id INTO room FROM invites i WHERE i.code = given_code AND i.room_id <> 0;
  -- The room's locks come first, as in enroll_member, which takes them again, or only that of the members. So the uses
  -- of an invite come one by one.
  IF room IS NULL OR NOT lock_room(room, true) THEN
    outcome := 'no_invite';
    RETURN NEXT;
    RETURN;
  END IF;
  IF NOT EXISTS (SELECT 1 FROM members m WHERE m.room_id = room AND m.user_id = new_member) THEN
    PERFORM 1 FROM invites i WHERE i.code = given_code FOR UPDATE;
    outcome := coalesce(invite_state(given_code, clock_ms()), 'no_invite');
    IF outcome <> 'valid' THEN
      RETURN NEXT;
      RETURN;
    END IF;
  END IF;
  SELECT c.outcome, c.member_role, c.since_ms, c.at_offset, c.at_number, c.change_id, c.change_body, c.actor_name
    INTO outcome, member_role, since_ms, at_offset, at_number, change_id, change_body, actor_name
    FROM enroll_member(room, new_member, new_member, shown_limit) c;
  IF outcome = 'joined' THEN
    UPDATE invites i SET uses = i.uses + 1 WHERE i.code = given_code;
  END IF;
  RETURN NEXT;
END $$;

-- Creates a user who has an invite and, if that is for a room, makes the user a member. All of it or nothing.
-- known_names: the names with this skeleton that the new name was compared with, which SQL can't do.
-- outcome: 'joined', 'valid' (there is no room to join) or a refusal. 'other_names': there are more names to compare.
CREATE FUNCTION sign_up_with_invite(
  given_code text, new_name text, new_key text, new_email_key text, new_hash text, new_skeleton text,
  known_names text[], shown_limit bigint)
RETURNS TABLE (
  new_user bigint, outcome text, member_role bigint, since_ms bigint, at_offset bigint, at_number bigint,
  change_id text, change_body text, actor_name text)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  room bigint;
BEGIN
  PERFORM begin_change();
  -- The names first, and before the room, as somebody may hold a name for longer than a statement.
  PERFORM set_config('lock_timeout', '1s', true);
  PERFORM pg_advisory_xact_lock(hashtextextended(new_skeleton, 0));
  IF EXISTS (SELECT 1 FROM users u WHERE u.skeleton = new_skeleton AND u.username <> ALL (known_names))
    OR EXISTS (SELECT 1 FROM former_names f WHERE f.skeleton = new_skeleton AND f.username <> ALL (known_names))
  THEN
    outcome := 'other_names';
  ELSIF EXISTS (SELECT 1 FROM former_names f WHERE f.name_key = new_key) THEN
    outcome := 'username_taken';
  ELSE
    INSERT INTO users AS u (username, username_key, email_key, password_hash, created_at, skeleton)
    VALUES (new_name, new_key, new_email_key, new_hash, clock_ms(), new_skeleton)
    ON CONFLICT DO NOTHING RETURNING u.id INTO new_user;
    IF new_user IS NULL THEN
      outcome := CASE
        WHEN EXISTS (SELECT 1 FROM users u WHERE u.username_key = new_key) THEN 'username_taken'
        ELSE 'email_taken'
      END;
    END IF;
  END IF;
  IF outcome IS NOT NULL THEN
    RETURN NEXT;
    RETURN;
  END IF;

  SELECT i.room_id INTO room FROM invites i WHERE i.code = given_code;
  IF room = 0 THEN
    PERFORM 1 FROM invites i WHERE i.code = given_code FOR UPDATE;
    outcome := coalesce(invite_state(given_code, clock_ms()), 'no_invite');
    IF outcome = 'valid' THEN
      UPDATE invites i SET uses = i.uses + 1 WHERE i.code = given_code;
    END IF;
  ELSE
    SELECT c.outcome, c.member_role, c.since_ms, c.at_offset, c.at_number, c.change_id, c.change_body, c.actor_name
      INTO outcome, member_role, since_ms, at_offset, at_number, change_id, change_body, actor_name
      FROM accept_invite(given_code, new_user, shown_limit) c;
  END IF;
  IF outcome NOT IN ('joined', 'valid') THEN
    DELETE FROM users u WHERE u.id = new_user;
    new_user := NULL;
  END IF;
  RETURN NEXT;
END $$;
