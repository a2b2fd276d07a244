"""The sentence forms of the sample datasets; the unseen ones are used only for test rows."""

from __future__ import annotations

ORDER_FORMS = """Hi, this is {name}. Could you send me {quantity} {item}?
Hello, {name} here. I would like to order {quantity} {item}, please.
Please put {quantity} {item} aside for {name}.
I need {quantity} {item} by {day}. My name is {name}.
Order from {name}: {quantity} {item}.
{name} wants {quantity} {item} delivered to {city}.
Could I get {quantity} {item}? Thanks, {name}
We are running low and need {quantity} {item} again. Regards, {name}
Good morning! {quantity} {item} for {name}, please, and no rush.
Dear shop, I want to buy {quantity} {item}. Yours, {name}
Add {quantity} {item} to the account of {name}.
This is {name} from {city}. Do you have {quantity} {item}? If so, I take them.
{quantity} {item} please. {name}, {city}
Can {name} have {quantity} {item} before {day}?
Ship {quantity} {item} to {city}, to the attention of {name}.
My order: {quantity} {item}. Name: {name}.
Hey, it's {name} again, same as last week: {quantity} {item}.
On {day} we open a new office and {name} asked me to order {quantity} {item}.
I'm {name} and I'd love {quantity} {item} for my shop in {city}.
For {name}, please reserve {quantity} {item} until {day}.
New order! Customer {name}, product {item}, {quantity} in total.
How soon can you deliver {quantity} {item} to {name} in {city}?
{name} called on {day} and ordered {quantity} {item}.
Just {quantity} {item} this time. Best, {name}
Put me down for {quantity} {item}. I am {name}.
The {item} were great, so {name} would like {quantity} {item} more.
Is it possible to have {quantity} {item} sent to {city}? The name is {name}.
Mr. or Ms. {name} requests {quantity} {item}.
Reminder: {name} is still waiting for {quantity} {item}.
Hello team, please bill {name} for {quantity} {item}.
Send {quantity} {item} to {name}, please.
Our warehouse in {city} is empty. {name} wants {quantity} {item} at once.
Any chance of {quantity} {item} by {day}? Take care, {name}
May I ask for {quantity} {item}? Kind regards, {name}
Excellent shop! Ordering {quantity} {item} again. Warmly, {name}
Welcome back from holiday! Can you pack {quantity} {item} for {name}?
It was nice to talk to you. As agreed: {quantity} {item}. Greetings from {city}, {name}
Will you hold {quantity} {item} for {name}?
Bring {quantity} {item} to {city} on {day}. Ask for {name}.
{name} would be happy with {quantity} {item}.
Do not forget: {name} gets {quantity} {item}.
Tell me when {quantity} {item} are ready. Sent by {name}
Since {day} we have no {item} left. Charge {quantity} {item} to {name}.
You can reach {name} in {city} about the {quantity} {item}.
A friend told me about your {item}. Give {name} {quantity} {item} for a start.""".splitlines()
OPENERS = """Quick question.
Good news!
Long time no see.
Summer is here.
Sorry for the short notice.
Greetings!
Busy week.
Business is great!
It is me.
No need to call back.
Everything arrived, many thanks.
Happy new year!
Another one.
As always.
Well, here we go.
Sorry to bother you.
Next order.
Yes, we are back!
Finally some sun.
Urgent!
Nice website, by the way.
Our guests love it.
The last box came on time.
Remember us?
First of all, thank you.
All is fine here.
One more thing.
Following up on our call.
Hope you are well.
Dear all,""".splitlines()
CLOSERS = """Many thanks!
Talk soon.
No hurry.
Call me if there is a problem.
Same address as before.
Keep the change.
Have a nice day!
Is that possible?
Payment by card.
That is all.
Gift wrap, please.
Looking forward to it.
Stay well.
Much appreciated.
Invoice by email.
When will it arrive?
Leave it at the door.
Use the back entrance.
Until next time!
Great work, everyone.
You are the best.
Any colour will do.
Tell me the price.
Nothing else today.
Always a pleasure.
We trust you.
Only new ones.
Ring twice.
Both of us say hello.
God bless.""".splitlines()
UNSEEN_ORDER_FORMS = """Good afternoon, my name is {name} and I am looking for {quantity} {item}.
Would you mind sending {quantity} {item} over to {name}?
{name} speaking. We will take {quantity} {item}, thank you.
Please deliver {quantity} {item} on {day}. Sincerely, {name}
Hi there! Me again, {name}. This time it is {quantity} {item}.
Our office in {city} is out of stock. Send {quantity} {item}, {name} will pay.
A customer called {name} came in and asked for {quantity} {item}.
Kindly book {quantity} {item} under the name {name}.
{quantity} {item} go to {name}.
Let me have {quantity} {item}, please. Cheers, {name}
Purchase request by {name}: {quantity} {item}.
Hello! Are {quantity} {item} available? Love, {name}
Tomorrow {name} will pick up {quantity} {item}.
We spoke on {day}. Now {name} has decided to take {quantity} {item}.
Everyone here likes your {item}! Mail {quantity} {item} to {name}.
What do {quantity} {item} cost? I would order them today. {name}
Perhaps you remember me, I am {name}. Same order: {quantity} {item}.
Invoice to {name}, goods to {city}: {quantity} {item}.
Nobody sells better {item}. Reserve {quantity} {item}! Faithfully, {name}
On behalf of {name} I ask you to prepare {quantity} {item}.""".splitlines()

FURTHER_ORDER_FORMS = """It is {name} calling about {quantity} {item} for next week.
Name on the order: {name}. Goods: {quantity} {item}.
To whom it may concern: {name} orders {quantity} {item}.
Reserve me {quantity} {item} and write {name} on the box.
We, that is {name} and family, would like {quantity} {item}.
I'd be glad to get {quantity} {item}. Signed, {name}
{quantity} {item}, as usual. With best wishes, {name}
Delivery note: {quantity} {item} for {name} in {city}.
Customer: {name}. Items: {quantity} {item}.
Has {name} paid for the {quantity} {item} yet?
Our manager {name} needs {quantity} {item} before {day}.
{name} from {city} has asked twice about {quantity} {item}.
Pack {quantity} {item} today. {name} collects them on {day}.
Thank you for the {item}! Now {quantity} {item} more for {name}, please.
Hello from {city}! I, {name}, am ready to buy {quantity} {item}.
Please confirm {quantity} {item} to {name} by {day}.
Is there a discount on {quantity} {item}? Ask {name}
The school in {city} wants {quantity} {item}. Contact: {name}.
My colleague {name} said that you sell {item}. Send {quantity} {item} to us.
For the party on {day} I need {quantity} {item}. All the best, {name}
{name} would prefer {quantity} {item} instead.
Change my order to {quantity} {item}. It was placed by {name}.
Double order: {quantity} {item}, billed to {name}.
Since you have {item}: {quantity} {item} for me, {name}.
One question before I buy {quantity} {item}: do you ship to {city}? Yours truly, {name}
Keep {quantity} {item} for {name} until {day}, will you?
Last time {name} got the wrong {item}. Now {quantity} {item}, please.
You may send {quantity} {item} to {city}. {name} will be there.
Attention {name}: your {quantity} {item} leave on {day}.
Hi! Just {name}. {quantity} {item}, that is all I need.
Let {name} know that {quantity} {item} are on the way.
I will take {quantity} {item}. You know me, {name}.
Express delivery to {name}: {quantity} {item}.
In {city} they ran out of {item}. {name} asks you for {quantity} {item}.
How about {quantity} {item} for {name}?
With this letter {name} orders {quantity} {item}.
Put {name} on the list with {quantity} {item}.
The shop of {name} is waiting for {quantity} {item}.
Yes, {quantity} {item} is right. Regards from {city}, {name}
Nothing special, only {quantity} {item}. Your {name}
From: {name}. To: shop in {city}. {quantity} {item}, please.
Could somebody bring {quantity} {item} to {name} on {day}?
Good evening, {name} again. Please send {quantity} {item} this week.
Next {day} {name} comes by for {quantity} {item}.
We agreed on {quantity} {item}. See you on {day}, {name}""".splitlines()
"""Written after forms and settings had been chosen by looking at the unseen ones: the fair measure."""

TICKET_FORMS = {
    "billing": """
        I was charged twice for the {item}. | My card was billed but I cancelled the order. | Why is there a fee of
        {price} on my bill? | The invoice {code} shows the wrong amount. | Please refund {price} to my card. | You
        took {price} from my account by mistake. | My payment of {price} went through two times. | I never got the
        refund for the {item}. | The total on the invoice is too high. | Can I pay the bill in two parts? | There is a
        charge of {price} that I do not know. | I need an invoice for my payment of {price}. | The bill for the {item}
        is wrong. | When will I get my money back? | My credit card was declined. | Please send me a receipt for
        {price}. | I want a refund, I was billed {price} too much. | Why was my card charged {price}?
        """,
    "shipping": """
        Where is my parcel {code}? | The {item} has not arrived yet. | My order was sent to {city} and not to my
        house. | The delivery is {count} days late. | The courier left the box at the wrong door. | When will the
        {item} be delivered to {city}? | The tracking of {code} has not moved for {count} days. | The parcel was lost
        on the way to {city}. | Has my order been shipped? | The box with the {item} arrived broken. | Nobody was at
        home when the courier came. | Please deliver the parcel on another day. | The package is stuck in {city}. | I
        am still waiting for the delivery of my {item}. | The tracking number {code} does not work. | How long does
        shipping to {city} take? | My parcel is {count} days late. | The courier lost my {item}.
        """,
    "account": """
        I cannot log in. | Please reset my password. | My account {code} is locked. | I forgot my password again. |
        Change the email of my account. | The login code never arrives. | I want to delete my account. | Somebody else
        signed in to my account. | How do I change my user name? | My login stopped working {count} days ago. | The
        password link has expired. | Please close my account. | I signed up twice with the same email. | My new
        password is not accepted. | I lost the phone that I use to log in. | How do I update my email? | My password
        does not work. | Please unlock my account {code}.
        """,
    "bug": """
        The app crashes when I open it. | I see error {code} on the screen. | The button does nothing when I press it.
        | The page stays blank after I search. | The app froze and I lost my list. | Error {code} appears each time I
        save. | The screen goes black on my phone. | The search page does not load. | After the update the app is very
        slow. | The website shows error {code}. | Pictures do not load in the app. | The menu of the app is empty. |
        The app closes by itself after {count} seconds. | The save button is broken. | The page keeps loading forever.
        | The website crashed {count} times today. | The app shows a blank screen. | I get error {code} when I press
        the button.
        """,
    "product": """
        Do you sell a {item} in blue? | Is the {item} still in stock? | What size is the {item}? | Does the {item}
        come with a lid? | How heavy is the {item}? | Which colors does the {item} have? | Can I use the {item}
        outside? | Is the {item} made of wood? | How tall is the {item}? | Is there a larger {item}? | Can the {item}
        be washed? | What is the {item} made of? | Do you have {count} pieces of the {item}? | Which {item} is the
        best for a child? | Will the {item} be back in stock? | Is the {item} heavy? | What colors of the {item} do
        you sell? | Do you have the {item} in a larger size?
        """,
    "praise": """
        Thank you, the {item} is perfect! | Great service in your shop in {city}. | {name} helped me so kindly, well
        done. | I love my new {item}. | Best shop in {city}! | Your team was fast and friendly. | The {item} is even
        better than I hoped. | I will tell all my friends about you. | What a wonderful {item}! | I am very happy with
        the {item}. | Thanks for the quick help, {name}! | You made my day, thank you. | Five stars for {name} in
        {city}. | Such a friendly team! | Everything was great, I will come back. | I love your shop, thank you! | The
        {item} is great, well done! | Thank you for the friendly service.
        """,
}
