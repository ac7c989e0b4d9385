"""How the window looks. Owns: its colours, its font and its style sheet; knows no widget of ours.

A dark palette of its own on the style Fusion, because stages are dark and a platform's dark mode cannot be relied on.
Text stands out from its ground by 4.5 to 1 at least.
"""

from __future__ import annotations

from pathlib import Path

from PySide6.QtGui import QColor, QFont, QFontDatabase, QPalette
from PySide6.QtWidgets import QApplication

GROUND = "#15171c"
PANEL = "#1d2027"
FIELD = "#272b34"
LINE = "#3a404c"
TEXT = "#e8eaf0"
QUIET = "#a3abba"
ACCENT = "#5cc8ff"
GOOD = "#6fd08c"
WARN = "#f2b84b"
BAD = "#ff7a70"

STYLE = f"""
QWidget {{ background: {GROUND}; color: {TEXT}; }}
QToolTip {{ background: {FIELD}; color: {TEXT}; border: 1px solid {LINE}; padding: 4px; }}
QScrollArea, QScrollArea > QWidget > QWidget {{ background: {PANEL}; border: 0; }}
#panel, #panel QWidget {{ background: {PANEL}; }}
QLineEdit, QPlainTextEdit, QComboBox, QSpinBox, QDoubleSpinBox, QListWidget, #panel QLineEdit,
#panel QPlainTextEdit, #panel QComboBox, #panel QSpinBox, #panel QDoubleSpinBox, #panel QListWidget {{
    background: {FIELD}; border: 1px solid {LINE}; border-radius: 4px; padding: 3px 6px;
    selection-background-color: {ACCENT}; selection-color: #06202e; }}
QLineEdit:focus, QPlainTextEdit:focus, QComboBox:focus, QSpinBox:focus, QDoubleSpinBox:focus, QListWidget:focus,
QSlider:focus, #panel QLineEdit:focus, #panel QPlainTextEdit:focus, #panel QComboBox:focus, #panel QSpinBox:focus,
#panel QDoubleSpinBox:focus, #panel QListWidget:focus {{ border: 1px solid {ACCENT}; }}
QPushButton, QToolButton, #panel QPushButton, #panel QToolButton {{
    background: {FIELD}; border: 1px solid {LINE}; border-radius: 4px; padding: 5px 10px; }}
QPushButton:hover, QToolButton:hover, #panel QPushButton:hover, #panel QToolButton:hover {{ border-color: {QUIET}; }}
QPushButton:focus, QToolButton:focus, #panel QPushButton:focus, #panel QToolButton:focus {{
    border: 1px solid {ACCENT}; }}
QPushButton:checked, QToolButton:checked, #panel QPushButton:checked, #panel QToolButton:checked {{
    background: #174a63; border-color: {ACCENT}; }}
QPushButton:disabled, QToolButton:disabled, QComboBox:disabled, QLabel:disabled, #panel QToolButton:disabled {{
    color: #6d7482; }}
QPushButton#primary {{ background: #17526e; border-color: {ACCENT}; font-weight: 600; }}
QPushButton#panic:checked {{ background: #7c2a25; border-color: {BAD}; }}
#panel QToolButton#bare, QToolButton#bare {{
    background: transparent; border: 1px solid transparent; padding: 2px 4px; }}
#panel QToolButton#bare:focus {{ border: 1px solid {ACCENT}; }}
QLabel#quiet, #panel QLabel#quiet {{ color: {QUIET}; }}
QLabel#warning, #panel QLabel#warning {{ color: {WARN}; }}
QLabel#heading, #panel QLabel#heading {{ font-weight: 600; }}
QFrame#notice {{ background: #4a2420; border: 1px solid {BAD}; border-radius: 4px; }}
QFrame#notice QLabel, QFrame#notice QToolButton {{ background: transparent; }}
QSlider::groove:horizontal {{ height: 4px; background: {LINE}; border-radius: 2px; }}
QSlider::sub-page:horizontal {{ background: {ACCENT}; border-radius: 2px; }}
QSlider::handle:horizontal {{ width: 14px; margin: -6px 0; border-radius: 7px; background: {TEXT}; }}
QComboBox::drop-down {{ border: 0; width: 20px; }}
QComboBox::down-arrow {{ image: url("ICONS/down.svg"); width: 12px; height: 12px; }}
QToolButton::menu-indicator, QPushButton::menu-indicator {{ image: none; width: 0; }}
QAbstractSpinBox::up-button, QAbstractSpinBox::down-button {{ width: 0; border: 0; }}
QCheckBox::indicator {{
    width: 16px; height: 16px; background: {FIELD}; border: 1px solid {QUIET}; border-radius: 3px; }}
QCheckBox::indicator:focus {{ border-color: {ACCENT}; }}
QCheckBox::indicator:checked {{ background: {ACCENT}; border-color: {ACCENT}; image: url("ICONS/check.svg"); }}
QScrollBar:vertical {{ background: {PANEL}; width: 10px; margin: 0; }}
QScrollBar::handle:vertical {{ background: {LINE}; border-radius: 4px; min-height: 30px; margin: 1px; }}
QScrollBar::handle:vertical:hover {{ background: {QUIET}; }}
QScrollBar::add-line, QScrollBar::sub-line {{ height: 0; width: 0; }}
QMenu {{ background: {FIELD}; border: 1px solid {LINE}; }}
QMenu::item:selected {{ background: #174a63; }}
QStatusBar {{ background: {PANEL}; color: {QUIET}; }}
QStatusBar QLabel {{ background: {PANEL}; padding: 0 6px; }}
QStatusBar::item {{ border: 0; }}
QSplitter::handle {{ background: {LINE}; }}
"""


def apply_theme(application: QApplication, assets: Path) -> None:
    """Dress the application with the font and the icons that ship in `assets`."""
    application.setStyle("Fusion")
    families = []
    for path in sorted((assets / "fonts").glob("*.otf")):
        identity = QFontDatabase.addApplicationFont(str(path))
        families += QFontDatabase.applicationFontFamilies(identity) if identity >= 0 else []
    font = QFont(families[0] if families else application.font().family())
    font.setPixelSize(13)
    application.setFont(font)
    palette = QPalette()
    roles = QPalette.ColorRole
    for role, colour in {
        roles.Window: GROUND,
        roles.Base: FIELD,
        roles.AlternateBase: PANEL,
        roles.Button: FIELD,
        roles.ToolTipBase: FIELD,
        roles.Highlight: ACCENT,
        roles.HighlightedText: "#06202e",
        roles.Mid: LINE,
        roles.Dark: LINE,
        roles.PlaceholderText: QUIET,
    }.items():
        palette.setColor(role, QColor(colour))
    for role in (roles.WindowText, roles.Text, roles.ButtonText, roles.ToolTipText):
        palette.setColor(role, QColor(TEXT))
    application.setPalette(palette)
    application.setStyleSheet(STYLE.replace("ICONS", (assets / "icons").as_posix()))
