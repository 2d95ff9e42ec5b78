/** The dialog in which emoji are chosen. What it shows is loaded when it is opened. */
import { useEffect, useState } from 'preact/hooks';
import type { EmojiSet } from '../state/emoji';
import { Dialog } from './Dialog';
import type { EmojiPicker } from './EmojiPicker';
import { loadEmojiData, remember } from './emoji';
import { useTexts } from './texts';

interface Props {
  title: string;
  user: string;
  onChoose: (emoji: string) => void;
  onClose: () => void;
}

export function EmojiDialog({ title, user, onChoose, onClose }: Props) {
  const t = useTexts();
  const [loaded, setLoaded] = useState<{ Picker: typeof EmojiPicker; set: EmojiSet }>();
  const [hasFailed, setFailed] = useState(false);
  useEffect(() => {
    let isCurrent = true;
    setFailed(false);
    Promise.all([import('./EmojiPicker'), loadEmojiData(t.code)]).then(
      ([{ EmojiPicker }, { set }]) => isCurrent && setLoaded({ Picker: EmojiPicker, set }),
      () => isCurrent && setFailed(true),
    );
    return () => {
      isCurrent = false;
    };
  }, [t.code]);
  return (
    <Dialog title={title} onClose={onClose}>
      {hasFailed ? (
        <p class="error" role="alert">
          {t.emoji.failed}
        </p>
      ) : (
        loaded && (
          <loaded.Picker
            set={loaded.set}
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
