"""Settings that are not in the original schema: each one's type, bounds and description; name and default stand in
`config.py`, one line a setting."""

from __future__ import annotations

from typing import Annotated, List, Literal, Optional

from pydantic import Field, StringConstraints

from toolkit.schema_types import HfModelPath, Template

_Name = Annotated[str, StringConstraints(min_length=1, max_length=1_000)]
_Codec = Annotated[str, StringConstraints(min_length=1, max_length=40)]
_Character = Annotated[str, StringConstraints(min_length=1, max_length=1)]

Accepted = Annotated[Optional[List[_Name]], Field(description="Hard stops that you have looked at and mean")]
CompletionOnlyLoss = Annotated[bool, Field(description="Learn the completion alone; off: the prompt too")]
Packing = Annotated[
    Optional[Literal["grouped", "packed"]],
    Field(
        description="How examples share a batch: like lengths together, or packed into full rows, where the batch size "
        "counts rows; empty means: grouped"
    ),
]
UseChatTemplate = Annotated[
    Optional[bool],
    Field(description="Wrap prompt and completion in the tokenizer's chat template; empty means: when it has one"),
]
Messages = Annotated[
    Optional[_Name],
    Field(
        description="Column that holds whole conversations (lists of role and content): every answer of the assistant "
        "is learned, and the two templates are not used"
    ),
]
TestPath = Annotated[
    Optional[HfModelPath],
    Field(description="Path to a file with the test rows; all rows of the data are then trained on"),
]
Stratify = Annotated[
    Optional[bool],
    Field(description="Keep the shares of the answers alike in training and test set, where there are few answers"),
]
Encoding = Annotated[
    Optional[_Codec],
    Field(description="Text encoding of the file, e.g. cp1252; empty means: find out, and ask when in doubt"),
]
Delimiter = Annotated[
    Optional[_Character], Field(description="Character between the cells of a CSV file; empty means: find out")
]
RowsFrom = Annotated[
    Optional[_Name], Field(description="Key of the list that holds the rows, in a JSON file with several lists")
]
Flatten = Annotated[
    Optional[bool], Field(description="Make a column of each value inside a JSON object, named outer.inner")
]
BadRows = Annotated[
    Optional[Literal["skip", "fill"]],
    Field(description="Rows that don't fit: leave them out, or treat their missing cells as empty; empty: refuse"),
]
RepairText = Annotated[
    Optional[bool],
    Field(description="Replace what is no character by U+FFFD and take NUL characters out, instead of refusing"),
]
PinnedPrompts = Annotated[
    Optional[List[Template]],
    Field(max_length=10, description="Prompts that the run answers at every evaluation, to see the answers change"),
]
PinnedRows = Annotated[
    int,
    Field(ge=0, le=10, description="Test rows that are answered with the pinned prompts; all together at most 10"),
]
EvalSteps = Annotated[
    Optional[int],
    Field(ge=1, description="Steps between two evaluations on the test set; empty means: about ten times a run"),
]
SaveSteps = Annotated[
    Optional[int],
    Field(
        ge=1,
        description="Steps between two checkpoints; empty means: so often that a crash costs at most a minute of work",
    ),
]
EarlyStoppingPatience = Annotated[
    Optional[int],
    Field(ge=1, description="Training ends after so many evaluations without a lower test loss; empty means: never"),
]
LoadBestAtEnd = Annotated[bool, Field(description="Keep the weights with the lowest test loss, not the last ones")]
Autopilot = Annotated[
    bool, Field(description="Go on by itself after a crash; after running out of memory, with fewer rows at a time")
]
NumProcesses = Annotated[
    Optional[int],
    Field(ge=1, le=1024, description="Processes that accelerate starts; empty means: one a GPU, or two on a CPU"),
]
