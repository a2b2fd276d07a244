"""The fixed phrases of the demo model's pretraining text: sentence forms, questions, and the keys of answers.

The sentences are about finding, lending, carrying or counting things. None of them places an order, so that the sample
datasets stay new to the model.
"""

from __future__ import annotations

from toolkit.demo_data.words import listed

KEYS = {
    "person": listed(
        "who person name client buyer sender caller contact guest author owner from customer visitor full_name"
    ),
    "thing": listed("what thing goods article object product stuff wares item things"),
    "count": listed("count number amount pieces units how_many total many"),
    "place": listed("where place town city at address"),
    "day": listed("when day date time"),
    "code": listed("code ref id number_code"),
    "price": listed("price cost sum paid"),
}
VERBS = listed(
    "found lost borrowed carried painted cleaned counted made brought repaired kept took saved hid packed stored "
    "returned washed stacked dropped collected lent moved photographed"
)
SENTENCES = """{person} {verb} {count} {thing} in {place}.
{person} {verb} {count} {thing} on {day}.
On {day} {person} {verb} {count} {thing}.
In {place} there were {count} {thing}, and {person} {verb} them all.
{count} {thing} were {verb} by {person}.
{count} {thing} belong to {person}.
We saw {count} {thing} and a man called {person}.
The {count} {thing} of {person} are in {place}.
I met {person} in {place}; {count} {thing} stood at the door.
My neighbour {person} {verb} {count} {thing} for {price}.
A woman named {person} lives in {place} with {count} {thing}.
{place}, {day}: {person} {verb} {count} {thing}.
Has {person} {verb} the {count} {thing}?
Did anyone see {count} {thing}? They belong to {person}.
Somebody {verb} {count} {thing}. It was {person}!
You should know that {person} {verb} {count} {thing}.
With {count} {thing} in the car, {person} drove to {place}.
There is a note from {person} about {count} {thing}.
{person} and the {count} {thing}: a story from {place}.
{person} says: I have {count} {thing}.
"I {verb} {count} {thing}," says {person}.
Report: {count} {thing} {verb}. Witness: {person}.
{person}, {count}, {thing}, {place}.
{person} / {thing} / {count}
{thing}: {count} ({person})
{count} x {thing}, {person}
The museum in {place} shows {count} {thing} made by {person}.
{person} never had more than {count} {thing}.
Please tell {person} that the {count} {thing} are ready.
Yesterday {count} {thing} fell down and hit {person}.
Give my regards to {person}, who {verb} {count} {thing}.
Thanks to {person} we now have {count} {thing}.
How did {person} get {count} {thing} to {place}?
As {person} told me, {count} {thing} cost {price}.
They paid {price} to {person} for code {code}.
{person} was born in {place}.
{person} will come to {place} on {day}.
My name is {person} and I live in {place}.
I am {person}. I {verb} {count} {thing} last week.
{person} here. The {thing} are gone.
Good evening, {person} speaking about the {count} {thing}.
Yours, {person}
Best wishes from {person} in {place}.
The {thing} cost {price}.
The {thing} came to {place} on {day}.
The number of {thing} is {count}.
Code {code} stands for {thing}.
It happened in {place} on {day}.
We count {count} {thing}.
No {thing} today, only {count} tomorrow.
About {count} {thing} is what we talked about, {person} and I.""".splitlines()
FILLERS = """It rained all day.
Nobody knows why.
That is all.
We are happy about it.
What a day!
The weather is fine.
I will write again soon.
Please answer.
It was late.
Thank you for reading.
The door was open.
How are you?
Hello!
Good morning.
Dear friends,
Hi all,
Listen:
As you know,
By the way,
To be honest,""".splitlines()
REPLIES = """Thank you for telling me.
I am glad to hear from you.
How are the {thing} today?
Please say hello to {person}.
That is good news.
I like {thing} too.
What happened next?
I see. Tell me more about the {thing}.
That sounds like a long day.
I hope the weather stays fine.
I do not know much about {thing}.
Let us talk about it on Monday.
Nice to meet you.""".splitlines()
ASK = {
    "person": "Who is it?|Who is the person?|What is the name?|Who?|Which person is named here?",
    "thing": "Which things?|What is it about?|What kind of things?|Name the things.",
    "count": "How many?|How many are there?|What is the number of things?|Count?",
    "place": "Where?|In which place?|Which town?",
    "day": "When?|On which day?|What is the date?",
    "code": "Which code?|What is the code?",
    "price": "How much?|What is the price?|What did it cost?",
}
TOPICS = {
    "weather": [
        "The sun was warm in {place}.",
        "It will rain on {day}.",
        "A cold wind came from the sea.",
        "Snow fell all night.",
    ],
    "food": [
        "{person} ate bread and cheese for lunch.",
        "The soup in {place} tastes good.",
        "Add {count} spoons of honey.",
    ],
    "animals": [
        "The {animal} sleeps near the {spot}.",
        "{person} feeds the {animal} each morning.",
        "A {adj} {animal} ran away.",
    ],
    "money": [
        "The bank sent a bill of {price}.",
        "{person} paid the invoice by card.",
        "A fee of {price} was charged twice.",
    ],
    "post": [
        "The courier brought a parcel to {place}.",
        "The letter from {person} is late.",
        "The box was lost on its way.",
    ],
    "computers": [
        "The screen went black.",
        "The program shows error {code}.",
        "{person} clicks the button but the page is blank.",
    ],
    "keys": [
        "{person} forgot the password.",
        "The account is locked.",
        "The login code never arrives.",
        "Sign in with your email.",
    ],
    "thanks": [
        "Thank you, that was great!",
        "{person} was so kind and friendly.",
        "We love the {thing}.",
        "Perfect, well done!",
    ],
    "shop": [
        "The shop has {thing} in two colours.",
        "Which size are the {thing}?",
        "The {thing} are out of stock.",
    ],
    "travel": [
        "{person} took the train to {place}.",
        "The flight leaves on {day}.",
        "We stayed {count} nights in a hotel.",
    ],
    "work": [
        "{person} is a {job}.",
        "The {job} wrote a long report.",
        "The team has a meeting on {day}.",
    ],
    "music": [
        "{person} plays the piano in {place}.",
        "The song was loud and long.",
        "A drum and a guitar need no words.",
    ],
}
