/** The list of everything that the keyboard does. */
import { Fragment } from 'preact';
import type { Texts } from '../texts/language';
import { Dialog } from './Dialog';
import { hasSingleKeys, shortcut } from './keys';
import { useTexts } from './texts';

/** The groups of keys, and what each does. */
function shortcutsIn({ shortcuts: { keys, anywhere, composer, messages, lists } }: Texts) {
  const control = (letter: string) => shortcut(letter, keys.control);
  return [
    {
      of: anywhere.title,
      keys: [
        [control('K'), anywhere.switch],
        ['Alt+↑ Alt+↓', anywhere.step],
        ...(hasSingleKeys()
          ? [
              ['?', anywhere.help],
              [keys.anyLetter, anywhere.write],
            ]
          : []),
        ['Esc', anywhere.close],
      ],
    },
    {
      of: composer.title,
      keys: [
        ['Enter', composer.send],
        [keys.newLine, composer.newLine],
        ['↑', composer.editLast],
        ['@, #, :', composer.complete],
        [['B', 'I', 'E'].map(control).join(', '), composer.format],
        ['Esc', composer.cancelReply],
      ],
    },
    {
      of: messages.title,
      keys: [
        ['↑ ↓', messages.move],
        ['Enter', messages.person],
        ['Tab', messages.enter],
        ['Esc', messages.leave],
        [keys.pages, messages.scroll],
        [keys.end, messages.newest],
      ],
    },
    {
      of: lists.title,
      keys: [
        ['↑ ↓', lists.move],
        [keys.ends, lists.ends],
        ['Enter', lists.open],
      ],
    },
  ];
}

export function Shortcuts({ onClose }: { onClose: () => void }) {
  const t = useTexts();
  return (
    <Dialog title={t.shortcuts.title} onClose={onClose}>
      {!hasSingleKeys() && <p class="hint">{t.shortcuts.noSingleKeys}</p>}
      {shortcutsIn(t).map(({ of, keys }) => (
        <section key={of} class="shortcuts">
          <h3>{of}</h3>
          <dl>
            {keys.map(([key, what]) => (
              <Fragment key={key}>
                <dt>
                  <kbd>{key}</kbd>
                </dt>
                <dd>{what}</dd>
              </Fragment>
            ))}
          </dl>
        </section>
      ))}
    </Dialog>
  );
}
