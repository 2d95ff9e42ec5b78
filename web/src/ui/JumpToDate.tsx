/** The dialog that leads to the first message of a day. */
import { useState } from 'preact/hooks';
import type { Room } from '@uproar/client';
import { errorText } from '../errors';
import { dateText, dayRange, dayValue } from '../state/time';
import { Dialog } from './Dialog';
import { Field } from './Field';

interface Props {
  room: Room;
  /** Shows a message, and says something about it. */
  onGoTo: (offset: number, notice: string) => void;
  onClose: () => void;
}

export function JumpToDate({ room, onGoTo, onClose }: Props) {
  const [value, setValue] = useState(() => dayValue(Date.now()));
  const [error, setError] = useState<string>();
  const [isBusy, setBusy] = useState(false);

  async function jump(): Promise<void> {
    const day = dayRange(value);
    if (!day) return setError('Enter a date, such as 2026-12-31.');
    setError(undefined);
    setBusy(true);
    try {
      const found = await room.firstSince(day.from);
      if (!found) return setError(`There are no messages from ${dateText(day.from)} or later.`);
      onClose();
      const isLater = found.time >= day.to;
      onGoTo(found.offset, isLater ? `There are no messages from ${dateText(day.from)}. These came next.` : '');
    } catch (error) {
      setError(errorText(error));
    } finally {
      setBusy(false);
    }
  }

  return (
    <Dialog title="Jump to a date" onClose={onClose}>
      <form
        class="create"
        // The browser's own complaints can't be read by everyone.
        noValidate
        onSubmit={(event) => {
          event.preventDefault();
          if (!isBusy) void jump();
        }}
      >
        <Field label="Date" name="date" type="date" value={value} onInput={setValue} error={error} focus />
        <button class="primary" disabled={isBusy}>
          {isBusy ? 'Looking…' : 'Show its first message'}
        </button>
      </form>
    </Dialog>
  );
}
