// Where the reader is in a conversation: the page follows an answer while its end is on the screen, and stays where the reader scrolled.

const NEAR_PX = 40;
const KEYS_UP = new Set(["ArrowUp", "PageUp", "Home"]);

export class ReadingPlace {
  #isAtEnd = true;
  #top = 0;
  #height = 0;

  /** *log* scrolls; *content* in it grows. *button* leads to the end, and is shown elsewhere. */
  constructor(log, content, button) {
    Object.assign(this, {log, button});
    log.addEventListener("scroll", () => this.#scrolled(), {passive: true});
    button.addEventListener("click", () => {
      this.toEnd();
      log.focus();
    });
    log.addEventListener("wheel", (event) => { if (event.deltaY < 0) this.#leave(); }, {passive: true});
    log.addEventListener("keydown", (event) => { if (KEYS_UP.has(event.key)) this.#leave(); });
    let finger = 0;
    log.addEventListener("touchstart", (event) => { finger = event.touches[0].clientY; }, {passive: true});
    log.addEventListener("touchmove", (event) => {
      if (event.touches[0].clientY > finger) this.#leave();
      finger = event.touches[0].clientY;
    }, {passive: true});
    const sizes = new ResizeObserver(() => this.#follow());
    sizes.observe(content);
    sizes.observe(log);
  }

  /** Shows the end, and stays there. */
  toEnd() {
    this.#isAtEnd = true;
    this.#follow();
  }

  /** Shows *node*, and stays there. */
  show(node) {
    this.#isAtEnd = false;
    node.scrollIntoView({block: "nearest"});
  }

  /** The reader goes up. That is heard before the scrolling, which an answer that grows could undo. */
  #leave() {
    if (this.log.scrollTop > 0) this.#isAtEnd = false;
    this.#showButton();
  }

  #follow() {
    if (this.#isAtEnd) {
      this.log.scrollTop = this.log.scrollHeight;
      this.#top = this.log.scrollTop;
    }
    this.#showButton();
  }

  /** By the scroll bar, only the reader moves up without a change of the height: what is off the screen gets its height late. */
  #scrolled() {
    const {scrollTop, scrollHeight, clientHeight} = this.log;
    const left = scrollHeight - scrollTop - clientHeight;
    const isUp = scrollTop < this.#top && scrollHeight === this.#height;
    if (left < NEAR_PX && scrollTop > this.#top) this.#isAtEnd = true;
    else if (isUp) this.#isAtEnd = false;
    this.#top = scrollTop;
    this.#height = scrollHeight;
    this.#showButton();
  }

  #showButton() {
    this.button.hidden = this.#isAtEnd;
  }
}
