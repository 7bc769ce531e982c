"""Word lists: data, not code, in the form in which they are compared."""

from __future__ import annotations


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


STOP_WORDS = _listed("""
    a about above after again against all also am an and any are as at be because been before being
    below between both but by can cannot could did do does doing done down during each either else
    etc ever every few for from further had has have having he her here hers herself him himself his
    how however i if in into is it its itself just less let may me might more most much must my
    myself neither no nor not now of off on once one only or other others our ours out over own per
    please same shall she should since so some such than that the their theirs them themselves then
    there therefore these they this those through thus to too under until up upon us use used using
    very via was we were what when where whether which while who whom whose why will with within
    without would yet you your yours
    """)

# Words that a full stop may follow inside a sentence.
ABBREVIATIONS = _listed("""
    al approx apr art arts aug bzw c ca capt cf ch chap col d.h dec dept div dr e.g ed eds eg eq
    est excl ext feb fig figs fr fri gen ggf hon hr i.e ie incl jan jr jul jun lt mar messrs
    mlle mme mon mr mrs ms mx no nos nov nr oct p para paras pp prof resp rev sec sect sep sept
    sgt sr st str tel thu thur thurs tue tues usw viz vol vols vs wed z.b
    """)

# Short forms that may end a sentence as well: what follows decides.
COMPANY_ABBREVIATIONS = _listed(
    "inc ltd co corp llc plc bros cie etc a.m p.m u.s u.k e.v s.a b.v n.v"
)

SENTENCE_STARTERS = _listed("""
    A After All An And Any As At Because Before Both But By Each Every For From He Her His
    However I If In It Its Many Most My No On Once One Our Payment Please She Since So Some That
    The Their Then There These They This Those To Under Until We When Where While With You Your
    """)

MONTHS: dict[str, int] = {
    name: number
    for number, names in enumerate(
        (
            "january jan januar janvier enero",
            "february feb februar février febrero",
            "march mar märz mars marzo",
            "april apr avril abril",
            "may mai mayo",
            "june jun juni juin junio",
            "july jul juli juillet julio",
            "august aug août agosto",
            "september sept sep septembre septiembre",
            "october oct oktober octobre octubre",
            "november nov novembre noviembre",
            "december dec dezember décembre diciembre",
        ),
        start=1,
    )
    for name in names.split()
}

GIVEN_NAMES = _listed("""
    aaron abigail adam adrian agnes ahmed aisha alan albert alejandro alex alexander alexandra
    alexei alice alison amanda amara amelia amina amir amy ana anastasia andrea andreas andrei
    andrew andy angela anita anjali ann anna anne annika anthony anton antonio april arjun armin
    arthur astrid barbara beatrice beatriz ben benjamin bernard bernd beth bill birgit bjorn
    björn bob boris brenda brendan brett brian bruce bruno bryan camille carl carla carlos
    carmen carol caroline catherine cecilia charles charlie charlotte chen chiara chidi chris
    christian christina christine christoph christopher claire clara claude claudia claus colin
    connor craig cristina curtis dan daniel daniela daniele dave david deborah denis dennis
    diana diego dieter dmitri dmitry dominic don donald donna dorothy doug douglas edward
    eleanor elena elif elisabeth elise elizabeth ella ellen emil emily emma eric erica erik
    ernst esther eva evan evelyn fatima felix fernando fiona florian frances francesca francesco
    francis frank franz frederic fredrik gabriel gareth gary geoffrey george georgina gerald
    gerhard giorgio giovanni giulia giuseppe glenn grace graham greg gregory guido gustav hana
    hannah hans harold harriet harry hassan heather heidi heinrich helen helena helga henri
    henrik henry hiroshi holger howard hugo ian ibrahim igor ines ingrid irene iris isaac isabel
    isabella ivan ivana jack jacob jacqueline jakob jakub james jan jane janet jason javier jean
    jeff jeffrey jennifer jens jeremy jessica jim joan joanna joe johan johann johanna johannes
    john jon jonas jonathan jorge jose josef joseph joshua josé joyce juan judith julia julian
    julie june jürgen karen karin karl kate katharina katherine kathleen katja keith kelly kenji
    kenneth kevin kim klaus konrad kristina kurt kwame lars laura lauren laurence lea leah lee
    leila lena leo leon leonard leonardo leonie lewis liam lilian linda lisa liu lorenzo louis
    louise lucas lucia lucy ludwig luis luisa lukas luke lydia magdalena malik manuel marc
    marcel marco marcus margaret margareta maria marie marina mario marion mark markus marta
    martha martin martina mary mateusz matteo matthew matthias maurice maya mei melanie melissa
    michael michal michelle miguel mikael mike mikhail milan miriam mohamed mohammed monica
    monika nadia naomi natalia natalie nathan neil nicholas nick nicola nicolas nicole niels
    nikolai nina noah nora norbert olaf oleg oliver olivia omar oscar otto owen pablo pamela
    paolo patricia patrick paul paula paulo pavel pedro peter petra philip philipp philippe
    pierre piotr priya rachel rafael rahul rainer raj ralf ralph ramón raymond rebecca renate
    rené ricardo richard rita rob robert roberto robin roger roland roman rosa rosalind rose roy
    russell ruth ryan sabine sally samantha samir samuel sandra sanjay sara sarah scott sean
    sebastian sergei sergio sharon silvia simon simone siobhán sofia sofía sonia sophia sophie
    stefan stefania stella stephanie stephen steve steven stuart sunita susan susanne sven
    svetlana sylvia takeshi tamara tanja tara tatiana ted teresa theo theodore theresa thomas
    tim timothy tobias todd tom tomas tomasz tomás tony ulrich ulrike ursula uwe valentina
    vanessa vera veronica victor victoria viktor vincent virginia vladimir walter wei wendy
    werner william wolfgang xavier yasmin yuki yusuf yves zoe zoë łukasz
    """)

TITLES = _listed(
    "mr mrs ms mx miss dr prof professor sir dame lady lord rev judge herr frau madame monsieur"
)

PARTICLES = _listed("van von de der den del della di da dos du la le al bin ibn ter ten zu")

# Written with a capital at the start of a sentence or by custom, and no part of any proper name.
NEVER_A_NAME = _listed("""
    a all also although an and another any apr are as at aug august because before both but by
    can copyright dear dec december do does each even every feb february finally following for
    fri friday from further had has have he hello her here hi his how however i if in instead
    into is it its january jul july jun just later let like many mar march meanwhile mon monday
    most my neither nor not note notwithstanding nov november now oct october of on once only or
    other our out over per please provided regards sat saturday see sep sept september several
    she should signed since sincerely so some such sun sunday than thank thanks that the their
    them then there therefore these they this those though three through thu thur thurs thursday
    thus to today tomorrow tue tues tuesday two under unless until upon very via was we wed
    wednesday were what when where whereas whether which while who whose why will with within
    without would yes yesterday yet you your
    """)

# What people are, and what else stands beside a name without being part of it.
BESIDE_A_NAME = _listed("""
    accountant accounts acting apache architect assistant associate attn attorney auditor author
    board bsd cc ceo cfo chair chairman chairwoman chief clerk client consultant contact
    controller coo counsel cto customer deputy developer director editor engineer engineering
    executive finance financial first founder general gnu gpl head human investor landlord last
    lead legal librarian maintainer manager managing marketing member mit new next no none
    notary officer one operations partner party president principal procurement purchasing
    relations representative resources sales second secretary senior solicitor staff supplier
    tenant third treasurer vice witness writer
    """)

# A capitalised word that shows that the whole run names something else: a place, a firm, a thing.
NOT_A_PERSON = _listed("""
    academy account act address africa agency agreement airport allianz america american amount
    amsterdam analytics annex annual api appendix application asia asian association athens
    australia austria authority avenue bangalore bank barcelona bay beijing belgium berlin
    birmingham boston boulevard brazil bridge bristol british brussels budapest building bureau
    business bv california cambridge campus canada capital cardiff care castle center centre
    chamber chapter chicago china chinese church city class clause cloud club code college
    cologne commission committee common community company compliance conditions consulting
    contract contributors copenhagen corporation council country county court crown data
    database date day delivery department desktop developers development directive district
    division document documentation drive dublin due dutch düsseldorf east edinburgh edition
    effective electronics embankment energy england english enterprise equipment estate europe
    european exchange exhibit fee fees field file finland floor force foundation france
    frankfurt free freight french fund garden gardens gate geneva german germany glasgow god
    government great greece grid group guide hall hamburg harbour health helsinki highway hill
    home hong hospital hotel house income india indian industries information institute
    insurance intelligence interest international internet invoice ireland irish island issue
    italian italy item jakarta japan japanese kingdom kong korea korean labs lake lane law layer
    learning ledger leeds leipzig liability library licence license limited line lines lisbon
    list liverpool logistics london los machine madrid mail management manchester market master
    materials media mexico milan mile minister ministry model monthly moscow mountain mumbai
    munich museum name national net netherlands network networks nordic north norway norwegian
    notice number object office online open order oslo oxford package parcel paris park
    parliament parties partners party payment period plan plant platform platforms plaza point
    poland policy polish port portugal power prague price privacy process product production
    products profit program programme programming project property protocol public python
    quality quarter quarterly quay queue quick rate reference registered registry regulation
    reply report republic request research results revenue review river road robotics rome room
    rotterdam rules russia russian safety schedule school science scotland scottish seattle
    section sector security seoul server service services shanghai shop singapore site society
    software solutions source south spain spanish square standard standards start state states
    station stockholm store street studio subscription summary supply support surname sweden
    swedish swiss switzerland sydney system systems table tallinn tax team technical
    technologies technology term terminal terms test theatre time tokyo toronto total tower town
    trade transport treaty trust turkey tutorial ukraine union united university update usa
    usage user valley value vat version vienna view village wales ward warehouse warranty warsaw
    washington water web website welsh west wharf wide windows wood work works world year york
    zurich zürich
    """)

ROLES = _listed(
    """
    accountant analyst architect assistant attorney auditor author ceo cfo chair chairman
    chairwoman chief clerk consultant controller coo coordinator counsel cto developer director
    editor engineer founder head landlord lawyer lead librarian maintainer manager notary
    officer owner partner president professor representative secretary solicitor supervisor
    tenant treasurer witness
    """
)

SPEECH_VERBS = _listed(
    """
    added agreed asked confirmed confirms explained joined joins leads led noted presented
    replied reported reports resigned said says signed signs succeeded succeeds writes wrote
    """
)

# Places and things that are surnames too: a person only where something else says so.
ALSO_SURNAMES = _listed("""
    bank bridge castle church day english field france french german hall hill holland home
    house ireland lake lane law london page park point power price school space stone street
    town trade wales ward washington waters west wood works york
    """)
