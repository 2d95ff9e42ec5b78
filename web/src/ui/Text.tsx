import { type ComponentChild } from 'preact';
import { useLayoutEffect, useRef } from 'preact/hooks';
import { folded } from '../state/fold';
import { type Block, type Inline, type Item, parseMarkdown, visible } from '../state/markdown';
import type { Names } from '../state/mentions';
import { addressOf } from './address';
import { useTokens } from './highlight';
import { useTexts } from './texts';

interface Props {
  text: string;
  me: string;
  names: Names;
  /** The names of the user's rooms. */
  rooms: Names;
  /** Whether Tab leads to the links. */
  isReachable: boolean;
  /** Whether only its beginning is shown. */
  isFolded: boolean;
  /** A remark at its end. */
  children?: ComponentChild;
}

/** The text of a message, with its formatting, links and mentions. It is never interpreted as HTML. */
export function Text({ text, me, names, rooms, isReachable, isFolded, children }: Props) {
  const all = parseMarkdown(text, me, names, rooms);
  const blocks = isFolded ? folded(all) : all;
  const [first] = blocks;
  const tabIndex = isReachable ? 0 : -1;
  if (blocks.length === 1 && first!.kind === 'paragraph') {
    return (
      <>
        {first.children.map(inline(tabIndex))}
        {children}
      </>
    );
  }
  return <>{withRemark(blocks, children, block(tabIndex))}</>;
}

/** The last of the nodes has the remark, in its last line. */
function withRemark<N>(nodes: readonly N[], remark: ComponentChild, render: Render<N>): ComponentChild[] {
  return nodes.map((node, i) => render(node, i, i === nodes.length - 1 ? remark : undefined));
}

type Render<N> = (node: N, key: number, remark?: ComponentChild) => ComponentChild;

/** `tabIndex`: none in a link, where nothing else can be pressed. */
const inline = (tabIndex: number | undefined) => (node: Inline, key: number): ComponentChild => {
  if (node.kind === 'text') return node.text;
  const children = node.children.map(inline(node.kind === 'link' ? undefined : tabIndex));
  switch (node.kind) {
    case 'em':
      return <em key={key}>{children}</em>;
    case 'strong':
      return <strong key={key}>{children}</strong>;
    case 'del':
      return <del key={key}>{children}</del>;
    case 'code':
      return (
        <code key={key} dir="ltr">
          {children}
        </code>
      );
    case 'link':
      return (
        <a
          key={key}
          href={node.href}
          // A mail program opens without a tab.
          {...(node.href.startsWith('mailto:') ? {} : { target: '_blank' })}
          rel="noopener noreferrer nofollow"
          tabIndex={tabIndex}
          data-host={node.host}
        >
          {children}
        </a>
      );
    case 'room':
      return (
        <a key={key} class="mention" href={addressOf(node.room)} tabIndex={tabIndex}>
          {children}
        </a>
      );
    default: {
      const name = visible(node).slice(1);
      const button = { role: 'button', tabIndex, 'aria-haspopup': 'dialog', 'data-person': name } as const;
      return (
        <span
          key={key}
          class={node.kind === 'me' ? 'mention me' : 'mention'}
          {...(tabIndex === undefined ? {} : button)}
        >
          {children}
        </span>
      );
    }
  }
};

const block = (tabIndex: number): Render<Block> => (node, key, remark) => {
  switch (node.kind) {
    case 'paragraph':
      return (
        <p key={key}>
          {node.children.map(inline(tabIndex))}
          {remark}
        </p>
      );
    case 'quote':
      return <blockquote key={key}>{withRemark(node.children, remark, block(tabIndex))}</blockquote>;
    case 'code-block':
      return (
        <CodeBlock key={key} tabIndex={tabIndex} text={visible(node)} language={node.language}>
          {remark}
        </CodeBlock>
      );
    case 'list': {
      const items = withRemark(node.children, remark, item(tabIndex));
      return node.isNumbered ? <ol key={key}>{items}</ol> : <ul key={key}>{items}</ul>;
    }
  }
};

const item = (tabIndex: number): Render<Item> => ({ number, children }, key, remark) => (
  <li key={key} value={number}>
    {withRemark(children, remark, block(tabIndex))}
  </li>
);

interface CodeProps {
  text: string;
  language: string | undefined;
  tabIndex: number;
  /** A remark at its end. */
  children?: ComponentChild;
}

/** Tab leads to it while there is something to scroll in a message that Tab leads to. */
function CodeBlock({ text, language, tabIndex, children }: CodeProps) {
  const t = useTexts();
  const element = useRef<HTMLPreElement>(null);
  const tokens = useTokens(language, text);
  useLayoutEffect(() => {
    const pre = element.current!;
    pre.tabIndex = -1;
    if (tabIndex < 0) return;
    // At once, for a Tab that follows directly.
    const update = () => (pre.tabIndex = pre.scrollWidth > pre.clientWidth ? 0 : -1);
    update();
    const observer = new ResizeObserver(update);
    observer.observe(pre);
    return () => observer.disconnect();
  }, [text, tabIndex]);
  return (
    <pre ref={element} dir="ltr" role="group" aria-label={t.composer.code} tabIndex={-1}>
      <code>
        {tokens
          ? tokens.map(({ text, kind }, key) => (kind ? <span key={key} class={`code-${kind}`}>{text}</span> : text))
          : text}
        {children}
      </code>
    </pre>
  );
}
