-- Who may do what in a room, and who has done it. Times are Unix milliseconds. (usable_since stays: older programs call
-- the same functions, which obey the new rules.)
ALTER TABLE rooms ADD COLUMN topic text NOT NULL DEFAULT '';
ALTER TABLE rooms ADD COLUMN who_may_invite smallint NOT NULL DEFAULT 1;   -- 0 members 1 moderators
-- Is there another owner?
CREATE INDEX members_owners ON members (room_id) WHERE role = 2;

CREATE TABLE bans (                                  -- who can't become a member
  room_id       bigint NOT NULL,
  user_id       bigint NOT NULL,
  until         bigint,                              -- NULL: for ever
  reason        text,
  banned_by     bigint NOT NULL,
  at            bigint NOT NULL,
  PRIMARY KEY (room_id, user_id));

CREATE TABLE silences (                              -- a member who leaves and comes back is still silenced
  room_id       bigint NOT NULL,
  user_id       bigint NOT NULL,
  until         bigint NOT NULL,
  reason        text,
  silenced_by   bigint NOT NULL,
  at            bigint NOT NULL,
  PRIMARY KEY (room_id, user_id));

CREATE TABLE pins (                                  -- messages that a room shows first
  room_id       bigint NOT NULL,
  room_offset   bigint NOT NULL,
  pinned_by     bigint NOT NULL,
  at            bigint NOT NULL,
  PRIMARY KEY (room_id, room_offset));
-- A deleted message is unpinned by its deletion.
CREATE FUNCTION unpin_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM pins p WHERE p.room_id = NEW.room_id AND p.room_offset = NEW.room_offset;
  RETURN NULL;
END $$;
CREATE TRIGGER unpin_deleted AFTER UPDATE OF gone_offset ON messages
  FOR EACH ROW WHEN (NEW.gone_offset IS NOT NULL) EXECUTE FUNCTION unpin_deleted();

CREATE TABLE room_audit (                            -- what moderators and owners did; kept for one year
  id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,   -- about in the order in which it was done
  room_id       bigint,
  at            bigint NOT NULL,
  actor_id      bigint NOT NULL,
  action        text NOT NULL,
  target_id     bigint,                              -- the user whom it concerns
  detail        text NOT NULL);                      -- a JSON object
CREATE INDEX room_audit_by_room ON room_audit (room_id, id);

-- Appends a publication of kind 8 (moderated), and the row of the audit log. The caller has locked the head. All nodes
-- are told in the same transaction, as of removals: the change holds within a second, whatever becomes of this process.
CREATE FUNCTION publish_moderated(
  changed_room bigint, actor bigint, word text, body text, subject bigint, changed_ms bigint,
  OUT at_offset bigint, OUT at_number bigint, OUT change_id text)
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  UPDATE heads SET last_offset = last_offset + 1 WHERE room_id = changed_room
    RETURNING last_offset, last_number INTO STRICT at_offset, at_number;
  -- Unique, as the offset is; no sender's id begins with a tilde.
  change_id := '~' || word || '-' || at_offset;
  INSERT INTO messages (room_id, room_offset, number, kind, user_id, client_id, body, created_at)
  VALUES (changed_room, at_offset, at_number, 8, actor, change_id, body, changed_ms);
  INSERT INTO room_audit (room_id, at, actor_id, action, target_id, detail)
  VALUES (changed_room, changed_ms, actor, word, subject, body);
  PERFORM tell_nodes('h', changed_room);
END $$;

-- Changes rights or settings in a room. The same rules are in Rust, for SQLite (`rights.rs`). wanted: a JSON object
-- with the name of the change (do) and what belongs to it.
-- Rows: one for each publication, with the outcome 'published', in their order, and then one with 'done'; or only one,
-- with a refusal. subject: the user concerned. more: some messages are still to be deleted.
CREATE FUNCTION change_room(changed_room bigint, actor bigint, wanted json)
RETURNS TABLE (
  outcome text, subject bigint, subject_name text, actor_name text, at_offset bigint, at_number bigint, at_kind bigint,
  at_ms bigint, change_id text, change_target bigint, change_body text, more boolean)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  what text := wanted ->> 'do';
  facts record;   -- about the room and the actor
  who record;     -- about the user concerned
  old bans;
  named text;     -- that user, in the body of a publication
  word text;      -- of the publication, if there is one
  body text;
  new_role smallint := (wanted ->> 'role')::smallint;
  new_until bigint := (wanted ->> 'until')::bigint;
  new_reason text := wanted ->> 'reason';
  pinned_offset bigint := (wanted ->> 'offset')::bigint;
  gone bigint[];  -- messages to delete
  gone_count bigint;
  x record;
BEGIN
  PERFORM begin_change();
  IF NOT lock_room(changed_room, true) THEN
    outcome := 'no_room';
    RETURN NEXT;
    RETURN;
  END IF;
  at_ms := clock_ms();
  SELECT r.kind, r.title, r.topic, r.size, r.members, r.who_may_invite, h.slow_mode_seconds, h.who_may_post,
    a.role AS actor_role, u.username AS name
    INTO STRICT facts
    FROM rooms r JOIN heads h ON h.room_id = r.id LEFT JOIN users u ON u.id = actor
    LEFT JOIN members a ON a.room_id = r.id AND a.user_id = actor
    WHERE r.id = changed_room;
  actor_name := facts.name;
  outcome := CASE
    WHEN facts.kind <> 0 AND facts.actor_role IS NULL THEN 'no_room'
    WHEN what = 'role' AND facts.actor_role IS DISTINCT FROM 2 THEN 'cannot_change_roles'
    WHEN what = 'settings' AND facts.actor_role IS DISTINCT FROM 2 THEN 'cannot_change_settings'
    WHEN what IN ('pin', 'unpin') AND coalesce(facts.actor_role, 0) < 1 THEN 'cannot_pin'
    WHEN what IN ('ban', 'unban', 'silence', 'unsilence') AND coalesce(facts.actor_role, 0) < 1 THEN 'cannot_moderate'
  END;
  IF outcome IS NULL AND wanted ->> 'user' IS NOT NULL THEN
    SELECT u.id, u.username, m.role, m.silenced_until INTO who
      FROM users u LEFT JOIN members m ON m.room_id = changed_room AND m.user_id = u.id
      WHERE u.username_key = wanted ->> 'user';
    outcome := CASE
      WHEN who.id IS NULL THEN 'no_user'
      WHEN who.role IS NULL AND what IN ('role', 'silence', 'unsilence') THEN 'not_member'
      WHEN what <> 'role' AND who.role >= facts.actor_role THEN 'not_over_equals'
    END;
    subject := who.id;
    subject_name := who.username;
    named := '"' || who.id || '","username":' || to_json(who.username)::text;
  END IF;
  IF outcome IS NOT NULL THEN
    RETURN NEXT;
    RETURN;
  END IF;
  more := false;

  CASE what
    WHEN 'role' THEN
      IF who.role = 2 AND new_role < 2
        AND NOT EXISTS (SELECT 1 FROM members m WHERE m.room_id = changed_room AND m.role = 2 AND m.user_id <> who.id)
      THEN
        outcome := 'last_owner';
      ELSIF who.role <> new_role THEN
        UPDATE members SET role = new_role WHERE room_id = changed_room AND user_id = who.id;
        word := 'role';
        body := '{"role":' || named || ',"is":"'
          || CASE new_role WHEN 2 THEN 'owner' WHEN 1 THEN 'moderator' ELSE 'member' END || '"}';
      END IF;

    WHEN 'ban' THEN
      SELECT * INTO old FROM bans b
        WHERE b.room_id = changed_room AND b.user_id = who.id AND (b.until IS NULL OR b.until > at_ms);
      IF NOT FOUND OR old.until IS DISTINCT FROM new_until OR old.reason IS DISTINCT FROM new_reason
        OR who.role IS NOT NULL
      THEN
        INSERT INTO bans (room_id, user_id, until, reason, banned_by, at)
        VALUES (changed_room, who.id, new_until, new_reason, actor, at_ms)
        ON CONFLICT (room_id, user_id) DO UPDATE SET
          until = excluded.until, reason = excluded.reason, banned_by = excluded.banned_by, at = excluded.at;
        IF who.role IS NOT NULL THEN
          DELETE FROM members m WHERE m.room_id = changed_room AND m.user_id = who.id;
          UPDATE rooms SET members = members - 1 WHERE id = changed_room;
          SELECT c.at_offset, c.at_number, c.change_id, c.change_body INTO at_offset, at_number, change_id, change_body
            FROM publish_change(changed_room, 5::smallint, actor, who.id, at_ms) c;
          at_kind := 5;
          outcome := 'published';
          RETURN NEXT;
        END IF;
        word := 'banned';
        body := '{"banned":' || named || coalesce(',"until":' || new_until, '')
          || coalesce(',"reason":' || to_json(new_reason)::text, '') || '}';
      END IF;

    WHEN 'unban' THEN
      DELETE FROM bans b WHERE b.room_id = changed_room AND b.user_id = who.id RETURNING b.* INTO old;
      IF FOUND AND (old.until IS NULL OR old.until > at_ms) THEN
        word := 'unbanned';
        body := '{"unbanned":' || named || '}';
      END IF;

    WHEN 'silence' THEN
      IF who.silenced_until IS DISTINCT FROM new_until THEN
        INSERT INTO silences (room_id, user_id, until, reason, silenced_by, at)
        VALUES (changed_room, who.id, new_until, new_reason, actor, at_ms)
        ON CONFLICT (room_id, user_id) DO UPDATE SET
          until = excluded.until, reason = excluded.reason, silenced_by = excluded.silenced_by, at = excluded.at;
        UPDATE members SET silenced_until = new_until WHERE room_id = changed_room AND user_id = who.id;
        word := 'silenced';
        body := '{"silenced":' || named || ',"until":' || new_until
          || coalesce(',"reason":' || to_json(new_reason)::text, '') || '}';
      END IF;

    WHEN 'unsilence' THEN
      DELETE FROM silences s WHERE s.room_id = changed_room AND s.user_id = who.id;
      UPDATE members SET silenced_until = NULL
        WHERE room_id = changed_room AND user_id = who.id AND silenced_until IS NOT NULL;
      IF who.silenced_until > at_ms THEN
        word := 'unsilenced';
        body := '{"unsilenced":' || named || '}';
      END IF;

    WHEN 'settings' THEN
      IF (wanted ->> 'size')::integer < facts.members THEN
        outcome := 'too_small';
      ELSE
        body := concat_ws(',',
          CASE WHEN wanted ->> 'title' <> facts.title THEN '"title":' || to_json(wanted ->> 'title')::text END,
          CASE WHEN wanted ->> 'topic' <> facts.topic THEN '"topic":' || to_json(wanted ->> 'topic')::text END,
          CASE WHEN (wanted ->> 'private')::boolean <> (facts.kind <> 0)
            THEN '"private":' || (wanted ->> 'private') END,
          CASE WHEN (wanted ->> 'size')::integer <> facts.size THEN '"size":' || (wanted ->> 'size') END,
          CASE WHEN (wanted ->> 'slow_mode_seconds')::integer <> facts.slow_mode_seconds
            THEN '"slow_mode_seconds":' || (wanted ->> 'slow_mode_seconds') END,
          CASE WHEN (wanted ->> 'who_may_post')::smallint <> facts.who_may_post
            THEN '"who_may_post":"' || (ARRAY['members', 'moderators', 'nobody'])[1 + (wanted ->> 'who_may_post')::int]
              || '"' END,
          CASE WHEN (wanted ->> 'who_may_invite')::smallint <> facts.who_may_invite
            THEN '"who_may_invite":"'
              || (ARRAY['members', 'moderators', 'nobody'])[1 + (wanted ->> 'who_may_invite')::int] || '"' END);
        IF body <> '' THEN
          UPDATE rooms SET
            title = coalesce(wanted ->> 'title', title),
            title_key = coalesce(wanted ->> 'title_key', title_key),
            topic = coalesce(wanted ->> 'topic', topic),
            kind = CASE (wanted ->> 'private')::boolean WHEN true THEN 1 WHEN false THEN 0 ELSE kind END,
            size = coalesce((wanted ->> 'size')::integer, size),
            who_may_invite = coalesce((wanted ->> 'who_may_invite')::smallint, who_may_invite)
            WHERE id = changed_room;
          UPDATE heads SET
            slow_mode_seconds = coalesce((wanted ->> 'slow_mode_seconds')::integer, slow_mode_seconds),
            who_may_post = coalesce((wanted ->> 'who_may_post')::smallint, who_may_post)
            WHERE room_id = changed_room;
          word := 'room';
          body := '{"room":{' || body || '}}';
        END IF;
      END IF;

    WHEN 'pin' THEN
      IF NOT EXISTS (SELECT 1 FROM messages t WHERE t.room_id = changed_room AND t.room_offset = pinned_offset
        AND t.kind = 0 AND t.gone_offset IS NULL)
      THEN
        outcome := 'no_message';
      ELSIF NOT EXISTS (SELECT 1 FROM pins p WHERE p.room_id = changed_room AND p.room_offset = pinned_offset) THEN
        IF (SELECT count(*) FROM pins p WHERE p.room_id = changed_room) >= (wanted ->> 'limit')::bigint THEN
          outcome := 'too_many_pins';
        ELSE
          INSERT INTO pins (room_id, room_offset, pinned_by, at) VALUES (changed_room, pinned_offset, actor, at_ms);
          word := 'pinned';
          body := '{"pinned":' || pinned_offset || '}';
        END IF;
      END IF;

    WHEN 'unpin' THEN
      DELETE FROM pins p WHERE p.room_id = changed_room AND p.room_offset = pinned_offset;
      IF FOUND THEN
        word := 'unpinned';
        body := '{"unpinned":' || pinned_offset || '}';
      END IF;

    ELSE
      outcome := 'unknown_change';
  END CASE;
  IF outcome <> 'published' THEN
    RETURN NEXT;
    RETURN;
  END IF;

  IF word IS NOT NULL THEN
    SELECT c.at_offset, c.at_number, c.change_id INTO at_offset, at_number, change_id
      FROM publish_moderated(changed_room, actor, word, body, subject, at_ms) c;
    at_kind := 8;
    change_body := body;
    outcome := 'published';
    RETURN NEXT;
  END IF;

  IF what = 'ban' AND wanted ->> 'since' IS NOT NULL THEN
    -- The caller has looked for the messages before anything was locked.
    SELECT array_agg(t.room_offset ORDER BY t.room_offset DESC), count(*) INTO gone, gone_count
      FROM messages t JOIN json_array_elements_text(wanted -> 'found') f ON t.room_offset = f.value::bigint
      WHERE t.room_id = changed_room AND t.user_id = who.id AND t.kind = 0 AND t.gone_offset IS NULL;
    change_body := NULL;
    at_kind := 2;
    FOR x IN
      SELECT a.*, gone[a.item] AS target FROM append(
        array_fill(changed_room, ARRAY[gone_count::int]), array_fill(actor, ARRAY[gone_count::int]),
        (SELECT array_agg('~delete-' || g ORDER BY n) FROM unnest(gone) WITH ORDINALITY AS d(g, n)),
        array_fill(2::smallint, ARRAY[gone_count::int]), gone, array_fill(NULL::text, ARRAY[gone_count::int]), NULL,
        NULL::text[]) a
      WHERE gone_count > 0 AND a.outcome = 'new' ORDER BY a.item
    LOOP
      at_offset := x.at_offset;
      at_number := x.at_number;
      at_ms := x.at_ms;
      change_id := '~delete-' || x.target;
      change_target := x.target;
      outcome := 'published';
      RETURN NEXT;
    END LOOP;
    IF gone_count > 0 THEN
      INSERT INTO room_audit (room_id, at, actor_id, action, target_id, detail)
      VALUES (changed_room, at_ms, actor, 'deleted', subject, '{"deleted":' || gone_count || '}');
    END IF;
    more := (wanted ->> 'more')::boolean OR EXISTS (
      SELECT 1 FROM messages t
      WHERE t.room_id = changed_room AND t.room_offset > (wanted ->> 'read_to')::bigint AND t.user_id = who.id
        AND t.kind = 0 AND t.gone_offset IS NULL AND t.created_at >= (wanted ->> 'since')::bigint);
  END IF;
  outcome := 'done';
  RETURN NEXT;
END $$;

-- The function of migration 11, which now refuses those who are banned, and remembers who is silenced.
CREATE OR REPLACE FUNCTION join_rooms(wanted_rooms bigint[], wanted_users bigint[], adder bigint, shown_limit bigint)
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
      EXISTS (SELECT 1 FROM users u WHERE u.id = x.user_id) AS is_user,
      is_banned(r.id, x.user_id, now_ms) AS is_banned
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
      WHEN facts.is_banned THEN 'banned'
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
      INSERT INTO members (room_id, user_id, role, joined_at, read_offset, read_number, silenced_until)
      VALUES (room, x.user_id, 0, now_ms, facts.last_offset, facts.last_number,
        silenced_until(room, x.user_id, now_ms));
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

CREATE FUNCTION is_banned(of_room bigint, of_user bigint, now_ms bigint) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT EXISTS (SELECT 1 FROM bans b WHERE b.room_id = of_room AND b.user_id = of_user
    AND (b.until IS NULL OR b.until > now_ms))
$$;

CREATE FUNCTION silenced_until(of_room bigint, of_user bigint, now_ms bigint) RETURNS bigint LANGUAGE sql STABLE AS $$
  SELECT s.until FROM silences s WHERE s.room_id = of_room AND s.user_id = of_user AND s.until > now_ms
$$;

-- The function of migration 15, with the same change.
CREATE OR REPLACE FUNCTION enroll_member(wanted_room bigint, wanted_user bigint, actor bigint, shown_limit bigint)
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
      AND EXISTS (SELECT 1 FROM users a WHERE a.id = actor) AS are_users,
    is_banned(r.id, wanted_user, now_ms) AS is_banned
    INTO facts
    FROM rooms r JOIN heads h ON h.room_id = r.id
    LEFT JOIN members m ON m.room_id = r.id AND m.user_id = wanted_user
    WHERE r.id = wanted_room AND is_there;
  outcome := CASE
    WHEN facts.members IS NULL THEN 'no_room'
    WHEN facts.role IS NOT NULL THEN 'member'
    WHEN facts.is_banned THEN 'banned'
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
    INSERT INTO members (room_id, user_id, role, joined_at, read_offset, read_number, silenced_until)
    VALUES (wanted_room, wanted_user, 0, now_ms, facts.last_offset, facts.last_number,
      silenced_until(wanted_room, wanted_user, now_ms));
    UPDATE rooms SET members = members + 1 WHERE id = wanted_room;
    IF has_head AND facts.members < shown_limit THEN
      SELECT c.at_offset, c.at_number, c.change_id, c.change_body, c.actor_name
        INTO at_offset, at_number, change_id, change_body, actor_name
        FROM publish_change(wanted_room, 7::smallint, actor, wanted_user, now_ms) c;
    END IF;
  END IF;
  RETURN NEXT;
END $$;

-- The function of migration 11: one of several owners can leave, and the removal of somebody else is in the audit log.
CREATE OR REPLACE FUNCTION remove_member(
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
  SELECT r.kind, a.role AS actor_role, u.id AS member, u.username, m.role INTO STRICT facts
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
    WHEN facts.role = 2 AND facts.member <> actor THEN 'owner_stays'
    WHEN facts.role = 2
      AND NOT EXISTS (SELECT 1 FROM members m WHERE m.room_id = left_room AND m.role = 2 AND m.user_id <> actor)
      THEN 'owner_leaves'
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
  IF member <> actor THEN
    INSERT INTO room_audit (room_id, at, actor_id, action, target_id, detail)
    VALUES (left_room, at_ms, actor, 'removed', member,
      '{"removed":"' || member || '","username":' || to_json(facts.username)::text || '}');
  END IF;
END $$;
