-- The outbox: commands of the server API that an application writes in its own transactions. (usable_since stays: older
-- programs do without this table.)

CREATE TABLE uproar_outbox (
  id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  method        text NOT NULL
    CONSTRAINT uproar_outbox_method_has_1_to_64_bytes CHECK (octet_length(method) BETWEEN 1 AND 64),
  payload       jsonb NOT NULL   -- the parameters
    CONSTRAINT uproar_outbox_payload_is_an_object CHECK (jsonb_typeof(payload) = 'object')
    CONSTRAINT uproar_outbox_payload_has_at_most_1_mib CHECK (octet_length(payload::text) <= 1048576),
  created_at    timestamptz NOT NULL DEFAULT now(),
  failed_at     timestamptz,   -- when the row was set aside; NULL: it waits
  error         text);   -- why it was set aside
CREATE INDEX uproar_outbox_waiting ON uproar_outbox (id) WHERE failed_at IS NULL;
CREATE INDEX uproar_outbox_failed ON uproar_outbox (id) WHERE failed_at IS NOT NULL;

-- Wakes the server when the transaction commits. Without this trigger, it finds the rows within a second.
CREATE FUNCTION uproar_outbox_tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('uproar_outbox', '');
  RETURN NULL;
END $$;
CREATE TRIGGER uproar_outbox_tell AFTER INSERT ON uproar_outbox
  FOR EACH STATEMENT EXECUTE FUNCTION uproar_outbox_tell();
