import { Component, type ComponentClass, type FunctionComponent, type VNode, h } from 'preact';

/** Renders a component only when one of its properties has changed. */
export function memo<P extends object>(render: (props: P) => VNode): ComponentClass<P> {
  return class extends Component<P> {
    override shouldComponentUpdate(next: P): boolean {
      const now = this.props as P;
      const keys = Object.keys(next) as (keyof P)[];
      return keys.length !== Object.keys(now).length || keys.some((key) => next[key] !== now[key]);
    }

    override render(props: P): VNode {
      return h<P>(render as FunctionComponent<P>, props) as VNode;
    }
  };
}
