/** Joins and departures between the messages: a quiet line, and each of them on request. */
import type { MemberChange } from '@uproar/client';
import { changesText } from '../state/changes';
import { memo } from './memo';
import { useTexts } from './texts';

interface Props {
  rowKey: string;
  position: number;
  day: string | undefined;
  /** In order, at least one. */
  changes: readonly MemberChange[];
  isReachable: boolean;
  onActivate: (key: string) => void;
  isFolded: boolean;
  onFold: (key: string, isFolded: boolean) => void;
}

export const ChangesRow = memo(function ChangesRow(props: Props) {
  const { rowKey, position, day, changes, isReachable, onActivate, isFolded, onFold } = props;
  const texts = useTexts();
  const { format } = texts;
  const text = changesText(changes, texts);
  const [first, last] = [changes[0]!, changes.at(-1)!];
  const times = [...new Set([format.fullTime(first.time), format.fullTime(last.time)])].join(' – ');
  return (
    <div
      class="row changes"
      role="article"
      data-key={rowKey}
      tabIndex={isReachable ? 0 : -1}
      aria-posinset={position}
      aria-setsize={-1}
      aria-label={text}
      onFocus={() => onActivate(rowKey)}
    >
      {day && (
        <h2 key="day" class="day">
          <span>{day}</span>
        </h2>
      )}
      <p key="line" title={times}>
        <span>{text}</span>
        {changes.length > 1 && (
          <button
            class="link"
            aria-expanded={!isFolded}
            tabIndex={isReachable ? 0 : -1}
            onClick={() => onFold(rowKey, !isFolded)}
          >
            {isFolded ? texts.changes.showAll : texts.changes.fold}
          </button>
        )}
      </p>
      {changes.length > 1 && !isFolded && (
        <ul key="all">
          {changes.map((change) => (
            <li key={change.offset}>
              <time dateTime={new Date(change.time).toISOString()} title={format.fullTime(change.time)}>
                {format.time(change.time)}
              </time>{' '}
              {changesText([change], texts)}
            </li>
          ))}
        </ul>
      )}
    </div>
  );
});
