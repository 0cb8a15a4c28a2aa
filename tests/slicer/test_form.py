"""The generated form against JSON Schemas of every kind of field."""

import pytest


@pytest.fixture
def form(scene):
    import qt
    from PerturboxLib.form import Form

    edits = []
    made = Form(qt.QWidget(), lambda: edits.append(1))
    made.edits = edits
    return made


SCHEMA = {
    "properties": {
        "eps": {"type": "number", "default": 4.0},
        "loss": {"type": "string", "enum": ["ce", "dice-ce"], "default": "dice-ce", "title": "Loss", "x-order": 3,
                 "x-in": "settings", "description": "What is climbed"},
        "steps": {"type": "integer", "minimum": 1, "maximum": 10000, "default": 20, "x-order": 1},
        "alpha": {"type": ["number", "null"], "minimum": 0, "default": None, "x-unit": "HU", "x-order": 2,
                  "x-in": "settings"},
        "tau": {"type": "number", "minimum": 0, "default": 1e-7, "x-order": 4, "x-in": "settings"},
        "random_start": {"type": "boolean", "default": True, "x-order": 5, "x-in": "settings"},
        "losses": {"type": "array", "items": {"type": "string", "enum": ["ce", "dice", "margin"]}, "default": ["ce"],
                   "x-order": 6, "x-in": "settings"},
        "name": {"type": ["string", "null"], "default": None, "x-order": 7},
        "odd": {"type": "object", "default": {"a": 1}, "x-order": 8},
        "beta": {"type": "number", "default": 0.5, "x-order": 9, "x-visible-if": {"loss": "ce"}},
    }
}  # fmt: skip


def test_defaults_come_back_as_they_were_sent(form):
    form.build(SCHEMA, hidden=("eps",))
    assert form.values() == {
        "steps": 20, "alpha": None, "loss": "dice-ce", "tau": 1e-7, "random_start": True, "losses": ["ce"],
        "name": None, "odd": {"a": 1}, "beta": 0.5,
    }  # fmt: skip
    assert list(form.fields) == ["steps", "alpha", "loss", "tau", "random_start", "losses", "name", "odd", "beta"]
    assert form.edits == [], "filling in is no edit"


def test_the_request_puts_each_value_where_the_schema_says(form):
    form.build(SCHEMA, hidden=("eps",))
    request = form.request()
    assert set(request) == {"settings", "steps", "name", "odd", "beta"}
    assert set(request["settings"]) == {"alpha", "loss", "tau", "random_start", "losses"}


def test_edits_are_read_back_with_their_json_types(form):
    form.build(SCHEMA)
    form.fields["steps"].widget.value = 7
    form.fields["alpha"].widget.value = 0.25
    form.fields["loss"].widget.currentIndex = 0
    form.fields["random_start"].widget.checked = False
    values = form.values()
    assert (values["steps"], values["alpha"], values["loss"], values["random_start"]) == (7, 0.25, "ce", False)
    assert type(values["steps"]) is int and type(values["alpha"]) is float and len(form.edits) == 4


def test_null_is_a_word_and_zero_is_a_number(form):
    form.build(SCHEMA)
    box = form.fields["alpha"].widget
    assert box.text == "automatic"
    box.value = 0.0
    assert form.values()["alpha"] == 0.0 and box.text.endswith("HU")


def test_what_depends_on_another_field_is_hidden_until_it_matters(form):
    form.build(SCHEMA)
    form.container.show()
    assert not form.fields["beta"].widget.isVisibleTo(form.container)
    form.fields["loss"].write("ce")
    form._updateVisibility()
    assert form.fields["beta"].widget.isVisibleTo(form.container)
    assert form.fields["beta"].label.isVisibleTo(form.container)


def test_an_unknown_type_is_a_line_of_json_and_says_when_it_is_none(form):
    form.build(SCHEMA)
    form.fields["odd"].widget.text = "{"
    with pytest.raises(ValueError, match=r"odd: '\{' is not JSON"):
        form.values()
    form.fields["odd"].widget.text = "[1, 2]"
    assert form.values()["odd"] == [1, 2]


def test_stored_values_are_kept_where_they_still_fit(form):
    form.build(SCHEMA)
    refused = form.setValues({"steps": 50, "loss": "gone", "alpha": -1, "losses": ["ce", "margin"], "unknown": 3})
    assert sorted(refused) == ["Loss", "alpha"]
    values = form.values()
    assert (values["steps"], values["loss"], values["losses"]) == (50, "dice-ce", ["ce", "margin"])


@pytest.mark.parametrize(
    ("value", "entry", "fits"),
    [
        (1.0, {"type": "integer"}, True),
        (1.5, {"type": "integer"}, False),
        (True, {"type": "integer"}, False),
        (float("nan"), {"type": "number"}, False),
        (None, {"type": "number"}, False),
        (None, {"type": ["number", "null"]}, True),
        (3, {"type": "number", "maximum": 2}, False),
        ("a", {"type": "string", "enum": ["b"]}, False),
        (["b"], {"type": "array", "items": {"enum": ["b"]}}, True),
        ("b", {"type": "array", "items": {"enum": ["b"]}}, False),
        ("text", {"type": "string"}, True),
        (3, {"type": "string"}, False),
    ],
)
def test_a_value_fits_type_choices_and_limits(value, entry, fits):
    from PerturboxLib.form import valid

    assert valid(value, entry) is fits


def test_units_and_tooltips_are_shown(form):
    form.build(SCHEMA)
    assert form.fields["alpha"].widget.suffix == " HU"
    assert form.fields["loss"].widget.toolTip == "What is climbed"
    assert form.fields["loss"].label.text == "Loss"


def test_building_again_leaves_nothing_of_the_form_before(form):
    form.build(SCHEMA)
    form.build({"properties": {"steps": {"type": "integer", "default": 3}}})
    assert form.values() == {"steps": 3} and form.layout.rowCount() == 1
