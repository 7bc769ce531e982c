"""Word lists. Data, not code: sorted by purpose, in the form in which they are compared."""

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
    mr mrs ms mx dr prof sr jr st rev hon gen col capt lt sgt messrs mme mlle hr fr
    e.g i.e eg ie cf vs viz approx ca c est fig figs eq no nos nr vol vols p pp para paras art arts
    sec sect ch chap ed eds al resp incl excl ext tel dept div
    jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thur thurs fri
    z.b d.h bzw ggf usw str
    """)

# Short forms that may end a sentence as well: what follows decides.
COMPANY_ABBREVIATIONS = _listed(
    "inc ltd co corp llc plc bros cie etc a.m p.m u.s u.k e.v s.a b.v n.v"
)

SENTENCE_STARTERS = _listed("""
    A After All An And Any As At Because Before Both But By Each Every For From He Her His However I
    If In It Its Many Most My No On Once One Our Payment Please Since She So Some That The Their Then
    There These They This Those To Under Until We When Where While With You Your
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
    aaron abigail adam adrian agnes ahmed aisha alan albert alejandro alex alexander alexandra alexei
    alice alison amanda amara amelia amina amir amy ana anastasia andrea andreas andrei andrew andy
    angela anita anjali ann anna anne annika anthony anton antonio april arjun armin arthur astrid
    barbara beatrice beatriz ben benjamin bernard bernd beth bill birgit bjorn björn bob boris brenda
    brendan brett brian bryan bruce bruno camille carl carla carlos carmen carol caroline catherine cecilia charles
    charlie charlotte chen chiara chidi chris christian christina christine christoph christopher claire
    clara claude claudia claus colin connor craig cristina curtis dan daniel daniele daniela dave david deborah denis
    dennis diana diego dieter dmitri dmitry dominic don donald donna dorothy doug douglas edward elena eleanor
    elif elisabeth elise elizabeth ella ellen emil emily emma eric erica erik ernst esther eva evan
    evelyn fatima felix fernando fiona florian frances francesca francesco francis frank franz
    frederic fredrik gabriel gareth gary geoffrey george georgina gerald gerhard giorgio giovanni
    giulia giuseppe glenn grace graham greg holger gregory guido gustav hana hannah hans harold harriet
    harry hassan heather heidi heinrich helen helena helga henri henrik henry hiroshi howard hugo
    ian ibrahim igor ines ingrid irene iris isaac isabel isabella ivan ivana jack jacob jacqueline
    jakob jakub james jan jane janet jason javier jean jeff jeffrey jennifer jens jeremy jessica jim
    joan joanna joe johan johann johanna johannes john jon jonas jonathan jorge jose josé josef
    joseph joshua joyce juan judith julia julian julie june jürgen karen karin karl kate katharina
    katherine kathleen katja keith kelly kenji kenneth kevin kim klaus konrad kristina kurt kwame
    lars laura lauren laurence lea leah lee leila lena leo leon leonard leonardo leonie lewis liam lilian
    linda lisa liu lorenzo louis louise lucas ludwig lucia lucy luis luisa lukas luke lydia magdalena malik
    manuel marc marcel marco marcus margaret margareta maria marie marina mario marion mark markus marta martha
    martin martina mary mateusz matteo matthew matthias maurice maya mei melanie melissa michael
    michal michelle miguel mikael mike mikhail milan miriam mohamed mohammed monica monika nadia
    naomi natalia natalie nathan neil nicholas nick nicola nicolas nicole niels nikolai nina noah
    nora norbert olaf oleg oliver olivia omar oscar otto owen pablo pamela paolo patricia patrick
    paul paula paulo pavel pedro peter petra philip philipp philippe pierre piotr priya rachel
    rafael rahul rainer raj ralf ralph ramón raymond rebecca renate rené ricardo richard rita rob
    robert roberto robin roger roland roman rosa rosalind rose roy russell ruth ryan sabine sally
    samantha samir samuel sandra sanjay sara sarah scott sean sebastian sergei sergio sharon silvia
    simon simone siobhán sofia sofía sonia sophia sophie stefan stefania stella stephanie stephen
    steve steven stuart sunita susan susanne svetlana sven sylvia takeshi tamara tanja tara tatiana
    ted teresa theo theodore theresa thomas tim timothy tobias todd tom tomas tomasz tomás tony ulrich
    ulrike ursula uwe valentina vanessa vera veronica victor victoria viktor vincent virginia
    vladimir walter wei wendy werner william wolfgang xavier yasmin yuki yusuf yves zoe zoë łukasz
    """)

TITLES = _listed(
    "mr mrs ms mx miss dr prof professor sir dame lady lord rev judge herr frau madame monsieur"
)

PARTICLES = _listed("van von de der den del della di da dos du la le al bin ibn ter ten zu")

# Written with a capital at the start of a sentence or by custom, and no part of any proper name.
NEVER_A_NAME = _listed("""
    january february march july august september october november december feb mar
    apr jun jul aug sep sept oct nov dec monday tuesday wednesday thursday friday saturday sunday mon
    tue tues wed thu thur thurs fri sat sun
    yesterday today tomorrow
    a all also although an and another any are as at because before both but by can copyright dear
    do does each even every finally following for from further had has have he hello her here hi his
    how however i if in instead into is it its just later let like many meanwhile most my neither
    nor not note notwithstanding now of on once only or other our out over per please provided
    regards see several she should signed since sincerely so some such than thank thanks that the
    their them then there therefore these they this those though three through thus to two under
    unless until upon very via was we were what when where whereas whether which while who whose why
    will with within without would yes yet you your
    """)

# What people are, and what else stands beside a name without being part of it.
BESIDE_A_NAME = _listed("""
    accountant accounts acting architect assistant associate attorney attn auditor author board
    cc ceo cfo chair chairman chairwoman chief clerk client consultant contact controller coo
    counsel cto customer deputy developer director editor engineer engineering executive finance
    financial founder general head human investor landlord lead legal librarian maintainer manager
    managing marketing member notary officer operations partner party president principal
    procurement purchasing relations representative resources sales secretary senior solicitor
    supplier tenant treasurer vice witness staff writer bsd mit gnu gpl apache first second third last new next
    no none one
    """)

# A capitalised word that shows that the whole run names something else: a place, a firm, a thing.
NOT_A_PERSON = _listed("""
    academy account act address agency agreement airport allianz amount analytics annex annual api
    appendix application association authority avenue bank bay boulevard bridge building
    bureau business bv campus capital care castle centre center chamber chapter church city class
    clause cloud club code college commission committee common community company compliance
    conditions consulting contract contributors corporation council country county court crown data
    database date day delivery department desktop developers development directive district division
    document documentation drive due east edition effective electronics embankment energy
    enterprise equipment estate european exchange exhibit fee fees field file floor force foundation
    free freight fund garden gardens gate germany god government great grid group guide hall harbour
    health highway hill home hospital hotel house income industries information institute insurance
    intelligence international internet interest invoice island issue item kingdom labs lake lane
    law layer learning ledger liability library licence license limited line lines list logistics machine
    mail management market master materials media mile minister ministry model monthly mountain
    museum name national net network networks north notice number object office online open order
    package parcel park parliament parties partners party payment period plan plant platform
    platforms plaza point policy port power price privacy process product production products
    profit program programme programming project property protocol public python quality quarter
    quarterly quay queue quick rate reference registered registry regulation reply report
    republic request research results revenue review river road robotics room rules safety school
    schedule science section sector security server service services shop site society software
    solutions source south square standard standards start state states station store street studio
    subscription summary supply support surname system systems table tax team technical technologies
    technology term terminal terms test theatre time total tower town trade transport treaty trust
    tutorial union united university update usage user valley value vat version view village ward
    warehouse warranty water web website west wharf wide windows wood work works world year
    africa america american amsterdam asia asian athens australia austria bangalore barcelona
    beijing belgium berlin birmingham boston brazil bristol british brussels budapest california
    cambridge canada cardiff chicago china chinese cologne copenhagen dublin dutch düsseldorf
    edinburgh england english europe finland france frankfurt french geneva german glasgow
    greece hamburg helsinki hong india indian ireland irish italian italy jakarta japan japanese
    kong korea korean leeds leipzig lisbon liverpool london los madrid manchester mexico milan
    moscow mumbai munich netherlands nordic norway norwegian oslo oxford paris poland polish
    portugal prague rome rotterdam russia russian scotland scottish seattle seoul shanghai singapore
    spain spanish stockholm sweden swedish swiss switzerland sydney tallinn tokyo toronto turkey
    ukraine usa vienna wales warsaw washington welsh york zurich zürich
    """)

ROLES = (
    "accountant analyst architect assistant attorney auditor author ceo cfo chair chairman chairwoman "
    "chief clerk consultant controller coo coordinator counsel cto developer director editor "
    "engineer founder head landlord lawyer lead librarian maintainer manager notary officer owner partner "
    "president professor representative secretary solicitor supervisor tenant treasurer witness"
).split()

SPEECH_VERBS = (
    "said says wrote writes joined joins reported reports signed signs added noted explained "
    "confirmed confirms agreed leads led presented asked replied resigned succeeds succeeded"
).split()

# Places and things that are surnames too: a person only where something else says so.
ALSO_SURNAMES = _listed("""
    bank bridge castle church day english field france french hall hill holland home house ireland
    lake lane law london page park point power price school space stone street town trade wales ward
    washington waters west wood works york german
    """)
