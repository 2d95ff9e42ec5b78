-- What takes a right away tells the nodes so in its own transaction: what is announced after a commit is lost together
-- with the process that made the commit. (usable_since stays: older programs do without.)

-- Tells all nodes of a room ('h') that changed, or of a user ('k') whose tokens were revoked. NOTIFY holds a lock of
-- the whole server until the commit is on disk, so it is left out while at most one node is alive.
CREATE FUNCTION tell_nodes(kind text, id bigint) RETURNS void LANGUAGE sql VOLATILE AS $$
  SELECT pg_notify('uproar', CAST(json_build_object('cluster', m.value, 'now', json_build_object(kind, id)) AS text))
  FROM meta m
  WHERE m.name = 'cluster' AND (SELECT count(*) FROM nodes n WHERE n.beat_at > clock_ms() - 60000) > 1
    -- With a full queue the change would fail.
    AND pg_notification_queue_usage() < 0.9
$$;

-- The function of migration 11, which now tells of removals.
CREATE OR REPLACE FUNCTION publish_change(
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
  IF change_kind = 5 THEN
    PERFORM tell_nodes('h', changed_room);
  END IF;
END $$;

-- A room without a head is gone.
CREATE FUNCTION tell_of_room() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM tell_nodes('h', OLD.room_id);
  RETURN NULL;
END $$;
CREATE TRIGGER tell_of_room AFTER DELETE ON heads FOR EACH ROW EXECUTE FUNCTION tell_of_room();

CREATE FUNCTION tell_of_revocation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM tell_nodes('k', NEW.id);
  RETURN NULL;
END $$;
CREATE TRIGGER tell_of_revocation AFTER UPDATE OF token_generation ON users
  FOR EACH ROW EXECUTE FUNCTION tell_of_revocation();
