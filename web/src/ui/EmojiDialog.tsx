/** The dialog in which emoji are chosen. What it shows is loaded when it is opened. */
import { useEffect, useState } from 'preact/hooks';
import { Dialog } from './Dialog';
import type { EmojiPicker } from './EmojiPicker';
import { remember } from './emoji';
import { useTexts } from './texts';

interface Props {
  title: string;
  user: string;
  onChoose: (emoji: string) => void;
  onClose: () => void;
}

export function EmojiDialog({ title, user, onChoose, onClose }: Props) {
  const t = useTexts();
  const [Picker, setPicker] = useState<typeof EmojiPicker>();
  const [hasFailed, setFailed] = useState(false);
  useEffect(() => {
    import('./EmojiPicker').then(
      ({ EmojiPicker }) => setPicker(() => EmojiPicker),
      () => setFailed(true),
    );
  }, []);
  return (
    <Dialog title={title} onClose={onClose}>
      {hasFailed ? (
        <p class="error" role="alert">
          {t.emoji.failed}
        </p>
      ) : (
        Picker && (
          <Picker
            user={user}
            onChoose={(emoji) => {
              remember(user, emoji);
              onClose();
              onChoose(emoji);
            }}
          />
        )
      )}
    </Dialog>
  );
}
