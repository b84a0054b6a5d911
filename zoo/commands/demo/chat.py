"""Tab "Chat": questions about pictures to a multimodal language model, or to a language model alone."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from zoo.commands.chat_session import Answer, ChatSession
from zoo.commands.demo.faults import on_page_in_pieces
from zoo.commands.demo.tab import Tab
from zoo.errors import DataError
from zoo.language.decoding.sampling import Sampling
from zoo.processors.chat.messages import without_markers

ENDS = {"interrupted": " (ended by the time limit)", "length": " (ended by the length limit)"}


def add_chat(tab: Tab) -> None:
    """Add the components and events."""
    gradio = tab.gradio

    @on_page_in_pieces
    def ask(
        text: str, path: str | None, length: float, session: ChatSession | None, messages: list[dict[str, Any]]
    ) -> Iterator[tuple[list[dict[str, Any]], ChatSession, str, str | None]]:
        if not text.strip():
            raise DataError("the question is empty; write one")
        if len(text) > tab.limits.max_characters:
            raise DataError(f"the question has {len(text)} characters; at most {tab.limits.max_characters} are allowed")
        image = None if path is None else tab.read_picture(path)
        shown = [{"role": "user", "content": {"path": path}}] if path is not None else []
        messages = [*messages, *shown, {"role": "user", "content": text}]
        with tab.model.held() as model:
            session = session or ChatSession(model, Sampling(max_new_tokens=int(length)))
            session.waiting = []  # of a question that failed
            if image is not None:
                session.show("image", image)
            so_far = ""
            for piece in _in_pieces(session, without_markers(text), time.monotonic() + tab.limits.timeout):
                so_far = piece.text + ENDS.get(piece.stop_reason, "") if isinstance(piece, Answer) else so_far + piece
                yield [*messages, {"role": "assistant", "content": so_far or "(no answer)"}], session, "", None

    tab.show_title()
    # The answers are shown as plain text: a model may write markup, which could load something from the network.
    answers = gradio.Chatbot(label="Conversation", height=380, render_markdown=False, sanitize_html=True, buttons=[])
    session = gradio.State(None, time_to_live=3600)
    with gradio.Row():
        picture = tab.picture("Picture for the next question")
        with gradio.Column():
            text = gradio.Textbox(label="Question", lines=2, placeholder="What is in the picture?")
            length = gradio.Slider(
                1,
                tab.limits.max_new_tokens,
                value=min(256, tab.limits.max_new_tokens),
                step=1,
                label="Longest answer in tokens",
                info="A change begins a new conversation.",
            )
            button = gradio.Button("Ask", variant="primary")
            clear = gradio.Button("New conversation")
    gradio.on([button.click, text.submit], ask, [text, picture, length, session, answers], [answers, session, text, picture])
    clear.click(lambda: ([], None, "", None), None, [answers, session, text, picture])
    length.change(lambda: None, None, session)  # the length is a setting of the session
    length.change(lambda: [], None, answers)


def _in_pieces(session: ChatSession, text: str, deadline: float) -> Iterator[str | Answer]:
    """Yield the pieces of an answer as they come, and then the answer.

    Args:
        session: of the conversation.
        text: the question.
        deadline: time of ``time.monotonic`` at which the answer is ended.
    """
    pieces: queue.Queue[str | Answer | Exception] = queue.Queue()
    has_left = threading.Event()

    def push(piece: str) -> None:
        pieces.put(piece)
        if has_left.is_set() or time.monotonic() > deadline:
            raise KeyboardInterrupt  # which the session takes for the user's wish to end the answer

    thread = threading.Thread(target=_answer, args=(session, text, push, pieces.put), daemon=True)
    thread.start()
    try:
        while True:
            piece = pieces.get()
            if isinstance(piece, Exception):
                raise piece
            yield piece
            if isinstance(piece, Answer):
                return
    finally:  # the page was closed; the model stays held until its answer has ended
        has_left.set()
        thread.join()


def _answer(session: ChatSession, text: str, push: Callable[[str], None], put: Callable[[Any], None]) -> None:
    try:
        put(session.ask(text, push))
    except Exception as error:  # raised again in the thread of the event
        put(error)
