/** The list of everything that the keyboard does. */
import { Fragment } from 'preact';
import { Dialog } from './Dialog';
import { shortcut } from './keys';

const SHORTCUTS: readonly { of: string; keys: readonly (readonly [string, string])[] }[] = [
  {
    of: 'Anywhere',
    keys: [
      [shortcut('K'), 'Go to a room'],
      ['?', 'Show this list, outside of text fields'],
      ['Any letter', 'Write a message, outside of text fields'],
      ['Esc', 'Close a dialog'],
    ],
  },
  {
    of: 'In the message box',
    keys: [
      ['Enter', 'Send'],
      ['Shift+Enter', 'Begin a new line'],
      ['↑', 'Edit your last message, if the box is empty'],
      ['@, #, :', 'Complete a name, a room or an emoji: ↑ and ↓ choose, Tab or Enter completes'],
      [`${shortcut('B')}, ${shortcut('I')}, ${shortcut('E')}`, 'Make the selection bold, italic or code, or undo that'],
      ['Esc', 'Cancel the reply'],
    ],
  },
  {
    of: 'In the list of messages',
    keys: [
      ['↑ ↓', 'Go to the previous or next message'],
      ['Tab', 'Go to what can be done with the message, and its links'],
      ['Esc', 'Go back to the message, or cancel editing it'],
      ['Page Up, Page Down', 'Scroll'],
      ['End', 'Go to the newest message'],
    ],
  },
  {
    of: 'In a list of rooms or people',
    keys: [
      ['↑ ↓', 'Go to the previous or next one'],
      ['Home, End', 'Go to the first or last one'],
      ['Enter', 'Open the room, or press the button'],
    ],
  },
];

export function Shortcuts({ onClose }: { onClose: () => void }) {
  return (
    <Dialog title="Keyboard shortcuts" onClose={onClose}>
      {SHORTCUTS.map(({ of, keys }) => (
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
