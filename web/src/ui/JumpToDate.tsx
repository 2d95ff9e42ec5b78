/** The dialog that leads to the first message of a day. */
import { useState } from 'preact/hooks';
import type { Room } from '@uproar/client';
import { errorText } from '../errors';
import { dayRange, dayValue } from '../state/time';
import type { Say } from '../texts/language';
import { Dialog } from './Dialog';
import { Field } from './Field';
import { useTexts } from './texts';

interface Props {
  room: Room;
  /** Shows a message, and says something about it. */
  onGoTo: (offset: number, notice: Say | undefined) => void;
  onClose: () => void;
}

export function JumpToDate({ room, onGoTo, onClose }: Props) {
  const t = useTexts();
  const [value, setValue] = useState(() => dayValue(Date.now()));
  const [wrong, setWrong] = useState<Say>();
  const setError = (say: Say | undefined) => setWrong(() => say);
  const [isBusy, setBusy] = useState(false);

  async function jump(): Promise<void> {
    const day = dayRange(value);
    if (!day) return setError((t) => t.jump.invalid);
    setError(undefined);
    setBusy(true);
    try {
      const found = await room.firstSince(day.from);
      if (!found) return setError((t) => t.jump.noneSince(t.format.date(day.from)));
      onClose();
      const isLater = found.time >= day.to;
      onGoTo(found.offset, isLater ? (t) => t.jump.noneOn(t.format.date(day.from)) : undefined);
    } catch (error) {
      setError((t) => errorText(error, t));
    } finally {
      setBusy(false);
    }
  }

  return (
    <Dialog title={t.jump.title} onClose={onClose}>
      <form
        class="create"
        // The browser's own complaints can't be read by everyone.
        noValidate
        onSubmit={(event) => {
          event.preventDefault();
          if (!isBusy) void jump();
        }}
      >
        <Field
          label={t.jump.date}
          name="date"
          type="date"
          value={value}
          onInput={setValue}
          error={wrong?.(t)}
          focus
        />
        <button class="primary" disabled={isBusy}>
          {isBusy ? t.jump.looking : t.jump.show}
        </button>
      </form>
    </Dialog>
  );
}
