"""The words that the text encoder is taught: synonyms of each look and colour, and ordinary words. Owns those lists.

How they become sentences is `words.py`; what judges the encoder, `unseen.py`, has lists of its own.
"""

# ruff: noqa: SIM905

from __future__ import annotations

LOOK_WORDS: dict[str, tuple[str, ...]] = {
    "identity": (
        "original", "unchanged", "no effect", "plain video", "natural", "as it is", "raw camera", "untouched",
        "normal", "realistic", "photo", "photograph", "passthrough", "identity", "real life", "nothing changed",
        "do not change anything", "no style", "without style", "no filter", "without filters", "unmodified",
        "photorealistic", "photographic", "real", "true colours", "effect off", "off", "bypass", "the camera picture",
        "camera image", "plain picture", "as is", "like in reality", "ordinary photo", "real footage", "unprocessed",
        "natural colours", "leave it", "keep the picture", "source", "just the picture", "nothing", "no change",
        "not stylised", "photo realism", "everyday video", "clean picture", "same as before",
    ),
    "oil": (
        "oil painting", "oil paint", "oil", "oils", "impasto", "thick brush strokes", "van gogh", "painted canvas",
        "painting", "painterly", "brushstrokes", "impressionist", "impressionism", "monet", "rembrandt",
        "palette knife", "acrylic painting", "baroque painting", "expressionist painting", "gouache", "oil on canvas",
        "oil portrait", "oil landscape", "oil sketch", "thick paint", "thick oil paint", "painted",
        "painted portrait", "brush painting", "broad brush", "brushed paint", "visible brush strokes",
        "fine art painting", "classical painting", "renaissance painting", "museum painting", "old painting",
        "oil colour", "oil colours", "cezanne", "renoir", "vermeer", "gauguin", "turner painting", "acrylics",
        "acrylic", "tempera", "fresco", "canvas", "on canvas", "brush on canvas", "painter", "paint strokes",
        "dabs of paint", "swirling paint", "heavy paint", "oil brush", "rough brush strokes", "oil painted",
        "painting on canvas", "abstract painting", "romantic painting", "dutch master", "starry night by van gogh",
        "pointillism", "post impressionism",
    ),
    "watercolour": (
        "watercolour", "watercolor", "aquarelle", "watercolour painting", "watercolor painting", "wash of paint",
        "wet on wet", "soft washes", "water colours", "water colour", "aquarell", "diluted paint",
        "watercolour on paper", "loose washes", "water color", "watercolours", "watercolors", "watercolour sketch",
        "watercolor drawing", "watercolour picture", "watercolor art", "painted with watercolour", "colour washes",
        "transparent washes", "wash", "washes", "paint bleeding into paper", "wet paint", "wet paper", "thin paint",
        "watery paint", "watery", "water based paint", "watercolour portrait", "watercolor landscape",
        "bleeding watercolour", "flowing watercolour", "washed out paint", "watercolour style painting",
        "light washes of paint", "delicate washes", "watercolour blots", "water paint", "watercolor brush",
    ),
    "pencil": (
        "pencil", "pencil drawing", "pencil sketch", "sketch", "graphite", "hand drawn sketch", "charcoal",
        "charcoal drawing", "drawing", "drawn on paper", "line drawing", "sketchbook", "crayon", "etching",
        "black and white sketch", "pencil lines", "pencils", "sketches", "sketching", "sketched", "drawings", "drawn",
        "hand drawn", "graphite drawing", "graphite sketch", "lead pencil", "coloured pencil", "colored pencil",
        "pencil on paper", "pencil portrait", "pencil strokes", "pencil shading", "shaded drawing", "hatching",
        "cross hatching", "hatched drawing", "charcoal sketch", "chalk drawing", "chalk", "conte crayon", "scribble",
        "scribbled", "doodle", "rough sketch", "quick sketch", "fine pencil lines", "engraving", "silverpoint",
        "drawn by hand", "study in graphite", "draughtsman", "soft pencil", "sketch on paper", "sketchy",
    ),
    "ink": (
        "ink", "ink drawing", "black ink", "pen and ink", "sumi-e", "manga", "woodcut", "linocut", "brush ink",
        "comic inks", "calligraphy", "black and white comic", "noir comic", "lino print", "stencil",
        "high contrast ink", "indian ink", "inked", "ink lines", "ink sketch", "inks", "ink on paper", "ink painting",
        "ink brush", "ink illustration", "ink portrait", "japanese ink", "chinese ink", "ink pen", "pen drawing",
        "pen lines", "fineliner", "black ink lines", "black lines on white", "manga drawing", "manga panel",
        "manga style", "wood cut", "wood engraving", "lino cut", "block print", "silhouette print", "stencil print",
        "screentone", "inking", "inky", "ink splatter", "sumi ink", "brush and ink", "black and white ink", "quill",
        "heavy black ink", "frank miller", "two tone print", "rorschach", "ink wash", "graphic black and white",
    ),
    "neon": (
        "neon", "neon lights", "neon glow", "cyberpunk", "glowing lines", "glowing edges", "tron", "synthwave",
        "vaporwave", "neon sign", "neon outlines", "laser lines", "electric glow", "retrowave", "fluorescent tubes",
        "neon city", "outrun", "blacklight", "neon light", "neon colours", "neon lines", "neon edges", "neon effect",
        "neon tube", "neon signs", "neon contours", "glow", "glowing", "glowing neon", "glowing contours",
        "glow lines", "glow edges", "luminous lines", "luminous", "light tubes", "electric lines", "electric light",
        "cyber punk", "cyberpunk city", "cyberpunk lights", "blade runner", "laser show", "lasers", "laser",
        "fluorescent lines", "fluorescent", "ultraviolet light", "black light", "rave lights", "nightclub lights",
        "tron legacy", "edges that glow", "bright glowing outlines", "led lines", "led strips",
        "light painting lines",
    ),
    "thermal": (
        "thermal", "thermal camera", "heat map", "heatmap", "infrared", "heat vision", "thermal imaging",
        "predator vision", "infra red", "flir", "false colour heat", "thermography", "heat camera", "thermal image",
        "thermal picture", "thermal footage", "thermal colours", "thermal sensor", "thermal filter", "heat image",
        "heat picture", "heat sensor", "heat colours", "heat", "body heat", "heat detection", "infrared image",
        "infrared light", "infrared film", "infrared footage", "infrared heat", "warmth map", "temperature map",
        "temperature camera", "temperature", "false colours", "false colour", "predator", "iron palette", "ir camera",
        "hot and cold spots", "hot spots", "thermic", "thermal palette", "heat scan", "thermal scan",
    ),
    "pixel": (
        "pixel art", "pixels", "pixelated", "8-bit", "8 bit", "16-bit", "retro game", "pixel", "blocky", "mosaic",
        "lego", "minecraft", "low resolution game", "sprite", "pixelart", "arcade game", "old video game", "nes game",
        "voxel", "pixel graphics", "pixel game", "pixel style", "pixel picture", "big pixels look", "pixelate",
        "pixelize", "square pixels", "large pixels", "coarse pixels", "8bit", "16bit", "8-bit game",
        "16-bit graphics", "32-bit", "bitmap", "low resolution", "low res", "lowres", "blocks", "big blocks",
        "squares", "tiles", "tile mosaic", "mosaic tiles", "sprites", "game sprite", "arcade", "game boy", "gameboy",
        "nintendo", "sega", "super mario", "tetris", "commodore 64", "atari", "retro gaming", "retro computer game",
        "old computer game", "video game", "voxels", "building blocks", "lego bricks", "dot matrix",
    ),
    "cel": (
        "cartoon", "anime", "cel shading", "cel shaded", "comic", "comic book", "toon", "animated film", "ghibli",
        "disney", "toon shading", "graphic novel", "flat colours with outlines", "cel", "animation",
        "pixar", "borderlands", "cartoonish", "cartoon style", "cartoon film", "cartoon drawing", "cartoon look",
        "cartoon network", "flat cel cartoon", "anime style", "anime series", "anime look", "japanese animation",
        "studio ghibli", "miyazaki", "toons", "toonish", "looney tunes", "comic style", "comic drawing", "comic hero",
        "comic panel", "comic page", "superhero comic", "marvel comic", "tintin", "simpsons", "animated",
        "animated series", "animated movie", "flat colours", "flat shading", "flat shaded", "flat areas of colour",
        "bold outlines", "outlined and flat", "cel animation", "cel art", "cel look",
        "caricature", "childrens cartoon", "picture book", "walt disney", "wind waker",
    ),
    "night": (
        "night", "at night", "midnight", "moonlight", "moonlit", "dark night", "nighttime", "night scene",
        "nocturnal", "after dark", "day for night", "dusk", "in the dark", "starry night sky", "moonlit scene",
        "night sky", "night time", "night light", "night mood", "night picture", "by night", "in the night",
        "in the middle of the night", "darkness", "dark", "darkened", "dark blue night", "pitch dark", "moon",
        "full moon", "light of the moon", "moon shine", "under the moon", "under the stars", "stars", "starlit",
        "starlight", "starry", "twilight", "evening", "late evening", "lights out", "nocturne", "blue hour",
        "sleeping city", "night shoot", "nightly city", "dim", "dimly lit", "moody darkness", "gloomy night",
    ),
    "vintage": (
        "vintage", "old film", "faded photo", "retro photo", "1970s", "polaroid", "film grain", "analog film",
        "old photograph", "nostalgic", "faded film", "70s", "retro film", "lomography", "kodachrome", "super 8",
        "old movie", "analogue", "vintage photo", "vintage look", "vintage camera", "vintage picture",
        "vintage movie", "vintage video", "grain", "grainy", "grainy film", "grainy photo", "film stock",
        "old camera", "old picture", "old photo", "old photos", "aged photo", "aged film", "aged", "faded",
        "faded colours", "faded picture", "faded print", "washed out photo", "retro", "retro picture", "retro movie",
        "retro camera", "polaroid picture", "instant photo", "instant camera", "analog", "analog photo",
        "analogue camera", "analogue photo", "35mm film", "35 mm", "16 mm film", "super8", "8 mm film", "home movie",
        "1960s", "1980s", "60s", "80s", "sixties", "eighties", "nostalgia", "light leak", "scratched film", "lomo",
        "kodak", "old fashioned photo", "yesteryear", "photo album of my parents", "dusty film", "antique photo",
    ),
    "halftone": (
        "halftone", "comic halftone", "halftone dots", "halftone print", "halftone comic", "halftone pattern",
        "half tone", "half tone dots", "ben day dots", "benday dots", "pop art", "pop art print", "pop art comic",
        "pop art dots", "popart", "roy lichtenstein", "lichtenstein", "warhol", "andy warhol", "warhol print",
        "printed dots", "print dots", "dots of a printed comic", "printed comic", "printed comic dots", "dotted print",
        "dotted comic", "comic dots", "coloured dots", "dots", "dot pattern", "dot screen", "screen dots",
        "raster dots", "printing raster", "newsprint", "newsprint dots", "newsprint comic", "cheap comic print",
        "offset print", "offset printing", "silkscreen", "silk screen", "screen print", "screen printed", "risograph",
        "riso print", "cmyk dots", "cmyk print", "comic raster", "polka dots", "dotted", "halftoned", "halftone art",
        "dotty comic",
    ),
    "glass": (
        "stained glass", "stained glass window", "stained glass windows", "stained glass panes", "stained glass art",
        "stained", "glass painting", "painted glass", "coloured glass", "colored glass", "leaded glass",
        "leaded window", "leadlight", "leadlights", "lead glass", "lead lines and glass", "glass panes", "glass panels",
        "panes of glass", "pieces of glass", "pieces of coloured glass", "glass set in lead", "panes set in lead",
        "tiffany glass", "tiffany lamp", "tiffany window", "church glass", "church window", "church windows",
        "glass of a church", "glass mosaic", "glass art", "glass picture", "backlit glass", "glowing glass",
        "stained glass style", "stained glass portrait", "window of coloured glass", "glass window", "glass windows",
        "translucent glass", "art glass", "leaded panes", "lead came", "window panes", "vitrail", "glazed panes",
    ),
}  # fmt: skip

COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    "red": (
        "red", "crimson", "scarlet", "ruby", "blood red", "red tones", "in red", "reddish", "vermilion", "carmine",
        "red tint", "red light", "red colours", "dark red", "bright red", "red hue", "red shade", "reds", "wine red",
        "burgundy", "maroon", "all red", "tinted red", "red tinge", "magenta red",
    ),
    "blue": (
        "blue", "azure", "cobalt", "navy", "ultramarine", "blue tones", "in blue", "bluish", "sapphire", "indigo",
        "blue tint", "blue light", "blue colours", "dark blue", "deep blue", "light blue", "bright blue", "blue hue",
        "blues", "navy blue", "royal blue", "all blue", "tinted blue", "blue shade", "prussian blue", "denim blue",
    ),
    "green": (
        "green", "emerald", "forest green", "lime", "green tones", "in green", "greenish", "jade", "matrix green",
        "green tint", "green light", "green colours", "dark green", "bright green", "light green", "green hue",
        "greens", "olive", "olive green", "moss", "all green", "tinted green", "green shade", "grass green",
        "mint green",
    ),
    "teal": (
        "teal", "turquoise", "cyan", "aqua", "teal tones", "in teal", "aquamarine", "petrol", "teal tint",
        "teal light", "teal colours", "dark teal", "teal hue", "turquoise light", "in turquoise", "in cyan",
        "cyan tones", "cyan light", "blue green", "sea green", "turquoise blue", "all teal", "aqua tones", "lagoon",
    ),
    "sepia": (
        "sepia", "brown tones", "sepia toned", "brownish", "in sepia", "brown tint", "antique brown",
        "coffee stained", "sepia tones", "sepia colours", "sepia look", "sepia light", "brown", "in brown",
        "dark brown", "brown colours", "brown hue", "earth tones", "tea stained", "all brown", "tinted brown",
        "sepia hue",
    ),
    "warm": (
        "warm", "warm colours", "golden hour", "sunset", "warm light", "golden", "sunny", "warm tones", "orange glow",
        "autumn", "amber", "warm colors", "warmer", "warm tint", "warm hue", "warm lighting", "sunlit", "sunshine",
        "sunrise", "evening sun", "orange", "orange light", "orange tones", "gold", "gold tones", "candle light",
        "firelight", "summer light", "late summer", "honey", "autumnal", "warmth",
    ),
    "cold": (
        "cold", "cool colours", "icy", "winter", "cold light", "frosty", "cool tones", "frozen", "cold tones",
        "wintry", "cold colours", "cold colors", "cool colors", "colder", "cold tint", "cold hue", "cool",
        "cool light", "cool tint", "cooler", "chilly", "ice", "ice cold", "arctic", "polar", "frost", "cold lighting",
        "steel blue cold", "winter light", "cold mood",
    ),
    "pastel": (
        "pastel", "pastel colours", "pale colours", "soft colours", "pale", "light colours", "candy colours",
        "pastel tones", "baby colours", "bleached", "pastel colors", "pale colors", "soft colors", "pastel tint",
        "pastel light", "pastel hue", "pale tones", "pale tint", "soft tones", "soft pastel colours",
        "powdery colours", "milky colours", "ice cream colours", "light pastel", "muted pastel", "pastel pink",
        "baby pink", "washed out colours",
    ),
}  # fmt: skip

# How much of it, from very little to more than usual.
HINT_WORDS = (
    "a hint of", "a touch of", "barely", "a trace", "the faintest", "hardly any", "hints of", "a whisper of",
    "a dash of", "just a touch of", "a tiny bit", "barely visible", "traces of", "very faint", "very slight",
    "a pinch of",
)  # fmt: skip
WEAK_WORDS = (
    "slightly", "subtle", "a little", "faint", "light", "mild", "subtly", "a bit", "somewhat", "weak", "weakly",
    "slight", "half", "not too", "a little bit of", "mildly", "gently", "softly", "discreet", "restrained",
    "moderate", "faintly", "some", "less", "little", "semi", "half way", "low strength", "minor", "reduced",
    "soft hint of",
)  # fmt: skip
STRONG_WORDS = (
    "very", "strong", "heavy", "extreme", "bold", "intense", "fully", "extremely", "much stronger", "stronger",
    "totally", "completely", "full", "full strength", "maximum", "max", "powerful", "super", "ultra", "massive",
    "a lot of", "lots of", "really", "hard", "intensely", "boldly", "exaggerated", "radical", "over the top",
    "absolutely", "deeply", "100 percent", "twice as", "entirely", "forceful", "overwhelming", "a great deal of",
)  # fmt: skip

SUBJECTS = (
    "a person", "a woman", "a man", "my face", "a cat", "a dog", "a singer on a stage", "a city street", "a dancer",
    "a house", "the sea", "a forest", "flowers", "a portrait", "a landscape", "people", "a guitar player", "a car",
    "the room", "mountains", "a child", "a band", "this scene", "a horse", "a garden", "hands", "a crowd",
    "the camera", "me", "us", "my friends", "my family", "my mother", "my father", "our kids", "a girl", "the boys",
    "an old woman", "a young man", "a couple", "the audience", "the speaker", "a pianist", "the drums", "a piano",
    "the player", "a student", "the office", "my kitchen table", "a bedroom", "the garden", "a park", "a beach",
    "a lake", "the city", "a town square", "a village", "the road", "a building", "the sky", "clouds over a field",
    "a tree", "grass", "plants", "a rose", "leaves", "fruit in a bowl", "an apple", "a cup of coffee", "a bottle",
    "a plate of food", "birds", "a bird on a branch", "a fish", "sheep", "cows", "a bicycle", "cars", "a train",
    "a boat", "boats in the harbour", "a bridge", "a river", "water", "rain", "snow on the roofs", "the sun",
    "a window", "a door", "a lamp", "books", "a chair", "the wall", "the floor", "my eyes", "her hair", "his beard",
    "a smile", "shoes", "a hat", "a dress", "a shirt", "the head", "the body", "arms and legs", "a glass", "a phone",
    "a screen", "a football player", "a runner", "the dj", "the host", "a guest", "children playing",
    "brother and sister", "grandparents", "a baby", "neighbours", "two people talking", "someone walking",
    "the background", "the foreground", "a still life", "a nude", "a selfie", "the webcam", "a group of people",
    "a musician", "a violin player", "actors",
)  # fmt: skip
FILLERS = (
    "beautiful", "detailed", "high quality", "4k", "masterpiece", "trending", "cinematic", "dramatic", "moving",
    "amazing", "best", "hd", "live", "smooth", "stunning", "highly detailed", "award winning", "elegant", "soft",
    "expressive", "delicate", "modern", "simple", "colourful", "clean", "huge", "everywhere", "all over", "fine",
    "rough", "loose", "big", "small", "bright", "vivid", "vibrant", "rich", "deep colours", "sharp", "crisp", "fluid",
    "dynamic", "calm", "quiet", "playful", "funny", "serious", "classic", "traditional", "contemporary", "artistic",
    "professional", "perfect", "lovely", "nice", "pretty", "great", "gorgeous", "fantastic", "8k", "ultra hd",
    "close up", "wide shot", "handmade", "thick", "thin", "tall", "wide", "round", "good quality", "young", "early",
    "late", "famous",
)  # fmt: skip

# Words that a prompt may have without asking for anything: they stand around looks, in any order.
PLAIN = tuple(
    """
    a able about above accept according accordionist acetate achieve acrobat across act action activate actual actually
    adapt add added adding adjective adjust adopt adorable adult adults advance advanced aesthetic after afternoon again
    aim air airbrush airbrushed airplane airport airy album albums all alla alley allow allowed almost alone along aloud
    already also alter alternative altogether aluminium always am amount amounts amp ample amplifier an ancient and
    angle ankle anniversary announce another answer ant antique ants any anybody anyhow anyone anything anyway anywhere
    apart apartment apartments aperture apparent appear appearance apples approach approximate apricot april arcade
    architect arctic are arm armchair around arrange arrive art artificial artisan artist artistically artistry artwork
    artworks as ash aside ask asked asking assume at atmosphere attach attempt attention attic attract aubergine
    audition august aunt auntie aunty authentic author auto automatic automatically available avatar average avocado
    avoid awake aware away awesome awful back backdrop background backlight backlit backward bacon bad badge baker
    bakery baking balance balcony ball ballerina ballet ballpoint bamboo banana bananas bandana banjo bank bar barbecue
    barber bare barista barn barnyard base based basement basic bass basses bassist bath bay be beach beam beams beans
    bear beard bears because become becomes bed bedroom bee beef been beer bees beetle before beginning behave behind
    behold beige being believe belong below belt bench bend bent beret berries beside best betamax better between beyond
    big bike billboard binoculars bird birds biro birthday biscuit bit bittersweet blank blanket bleak bled bleed
    bleeding blend blended blending blind blob blobs bloke blood bloom blooming blossom blot blotch blotchy blots blouse
    blow blur blurred blurry board body bohemian bokeh bonus book books bookshelf boots border bored boss both bother
    bottle bottled bottom bound bouquet bowl bowler box boxed boxing boy boys bracelet braid braids branch brass bread
    break breakfast breath breathe breathing breeze brick bride bridesmaid bridge brief briefly brilliant bring bringing
    bristle bristles broadcast brochure broken bronze brooch brooding brook broom brother brown brownie brush brushes
    brushstroke bubble bubbles bucket buddy budgie build builder building built bulb bulbs bull bunch bunny burger bus
    busy but butcher butter buy by cabbage cabin cafe cake calf call calm cam camcorder came camel camera cams can
    candles canoe canyon cap captain caption captions capture captured caramel card cardboard cardigan care careful
    carefully carpenter carpet carrot carrots carry carrying cartoonist cartridge carve case cashier cassette cast
    castle cat catch catchy cave caves cctv cell cellar cellist cello cells celluloid celsius cement center central
    centre centuries century ceramic ceremony cerise certain certainly cga chair chairs chance change changeable changed
    changing channel chapel chapter character characters charcoal charm charming cheap check cheek cheeks cheer cheerful
    cheese chef cherries cherry chest chestnut chiaroscuro chicken child children chin chips choice choir choirboys
    choose chosen christmas chunk chunks chunky church cinema cinnamon city clapping clarinet class classmate classroom
    clay clean cleaner cleaning clear clearly clerk clever cliff cliffs climb climbing clinic clip clock close closely
    closer closeup cloth clothes cloud clouds cloudy club coarse coastal coat cocktail cocoa coffee cold coldest
    colleague colleagues collection college color colorful colors colour coloured colours column combine combined
    combining come comedian comfortable coming comment common company compare complete completely complex complicated
    comply composition compressed compression computer concentrate concept concerts concrete condition conductor conjure
    connect consider consist console consoles constant contain content context continue continuous contour contoured
    contours contrast control controller convert converted converting convey cook cookie cookies cooking cool copper
    copy coral core corn corner cornflower correct corridor costume cosy cottage cotton couch could count country
    countryside couple course cousin cousins cover covered covering cow coworker cozy craft crazy cream create created
    creative crest crew crisps crop cross crossed crosshatch crossing crow crowd crown crt crying cucumber cultural
    culture cup cupboard cupboards curious curls curly current curtain curtains curve curved cushion custom cut cute
    cyanotype cycling cyclist cymbal cymbals dab dabbed dad daddy daguerreotype daily daisy damp dance danced dancer
    dancers dancing dark darkroom date dated daub daubed daughter day days dead deal dear decade decades decent decide
    decision decor decorate decorated decorative dedicated deeper deer default define degree degrees delicate deliver
    demo denim dense dentist depict depicted depicting deploy desaturated describe desert design designed designer
    desire desk despite detail details detector develop developed device dewy did differ difference different
    differently difficult diffuse diffused digital dimple dinner direct directed direction directly director dirty
    disappear disco discover discuss dish display dissolve distance distant distinct distort distorted dither dithered
    dithering dive diverse divide do doctor documentary does dog dogs doing domestic done donkey doodles door dose dot
    dots dotted double doubt down downsampled downscale downtown dozen drag drama draw drawer drawn dreamlike dreamy
    dress drift drill drink drinking drinks drip dripped dripping drips drive driver drizzle drone drop drum drummer
    drums dry duck ducks dull dune dunes dungeon duo duotone during dust dusty duty each eager eagle ear earlier earring
    earrings ears earth ease easel easily easter easy eat eating echo edge edges edit edition editor educational eerie
    effect effective effects effort ega egg eggs eight eighties either elbow elder elderly elders electric electrician
    elegant element elements elephant elevator eleven else emblem embossed embrace emotion emotional emphasis emphasise
    empty emulate emulsion enable encode end ended ending endless energy engage engaging engineer engrave engraved
    enhance enhanced enjoy enjoyable enlarge enormous enough enrich ensure enter entire entry environment epic episode
    equal equally equipment era eraser especially essence essential establish etch etched ethereal even evening evenly
    event eventually ever every everybody everyone everything evident evoke evoking evolve exact exactly example
    excellent except excited exciting exist existing exotic expect experience experiment experimental expert explain
    explore expose exposed exposure express expression expressive extend extent external extra extract extraordinary
    extreme eye eyebrow eyebrows eyelash eyelashes eyes fable fabric fabulous face faces facial fact factor factory fade
    fahrenheit fair fairly fairytale faithful fall falling false familiar family famous fan fancy fans fantasy far farm
    farmer fashion fashioned fast fat father favourite feather feathered feathery feature featured features featuring
    feed feel feeling feels feet fellow felt female fence fern ferry festival festive fetch fever few field fifteen
    fifties fifty figure figures file fill filled film filming filmmaker filter filtered filters final find fine finger
    fingers finish finished fire fireman fireplace first fishes fisheye fishing fit fitting five fix fixed flare flares
    flash flashy flat flick flicker flicks floodlight floor florist flour flow flower flowerbed flowers flowing fluffy
    fluid fluorescence flute flyer focus focused foggy fold folk follow followed following food foot footage footpath
    for foreground forehead forest forget fork form formal format former forth forties fortune forty forward found
    fountain four fox foxes fraction frame framed frames framing freckles free freezer frequent frequently fresh freshly
    fridge friend friends fringe frog from front fruit fuchsia full fully fun function future futuristic gain gallery
    game gamer garage garden gardener gardening gate gather gathering gave gaze geese general generate generic genre
    gently gesso gesture get getting gif gig gigs girl give given gives giving glad glade glance glass glasses glaze
    glazed glazing gleam gleaming glimpse glint glisten glistening glitter global gloomy glorious glossy glove gloves
    glue go goal goat goats god godmother goes goggles going gold goldfish gone good goodness goofy goose gorgeous got
    grace graceful grade gradient grading gradual gradually graduation grain gran grand grandfather grandma grandmother
    grandpa granite granny grant grape grapes graphic graphics graphite grass gray great grey grid grin grisaille gritty
    groom groove groovy ground group grow grown grownups guess guest guests guide guided guitar guitarist gulf gust guy
    guys gym had hail hair hairdresser half halfway halloween hallway halo haloes ham hammer hamster hand handcrafted
    handheld handle hands handy handycam hang hanging happen happening happens happily happiness happy harbor harbour
    hard hardback hardly harmony harp harsh has hat hatch haunting have having haze hazel hazy he head headline
    headphones heads healthy heaps hear hearing heart heater heaven heavier heavy hedge height heights heirloom held
    helicopters hello helmet help hen hens her herb herbs here hero heroes heroic heroine hers hi hifi high highlight
    highlighted highlighter highlights highway hike hiking hill hills him hint hip hippie hire his historic historical
    history hit hobby hold holding hole holiday holidays home homely homemade honest hood hoodie hope hopefully horizon
    horizontal horn horse horses hospital host hostel hot hotel hotter hour hours house houses how hue hued hues hugging
    human humble hundred hurry husband hut i ice icicle icicles icon iconic idea ideal identical idyllic if ignore
    illusion illustrate illustrated illustration illustrations illustrative illustrator image imager images imaginary
    imagination imaginative imagine imitate imitating imitation immediate immediately immense impact important impress
    impression impressive improve improved in inbetween include included including increase increased incredible indeed
    independent indexed indicate indirect individual indoors industrial infinite influence influenced influencer
    informal initial inkstone innocent inscription insert inside inspiration inspired inspiring instamatic instance
    instant instantly instead instruction instrument instruments intended intense intensity interest interested
    interesting interface interior intimate into introduce invent invert inverted invisible invite inviting involve iota
    is island islands isolated issue it item items its ivory ivy jacket jam jaw jazz jeans jewellery job jog jogger join
    joins jotter journalist joy joyful joystick jpeg judge juggler juice july jump jumper junction june junior just
    justice kayak keen keep keeping kept kerb kettle keyboard keyboardist keyboards keyframe khaki kid kiddo kids kind
    kindly king kiss kissing kitchen kitten kittens knee knees knife knitting know lab label lace lad ladder lady
    ladybird lake lamb lamp lamppost lamps land landlord landscape lane language lantern lanterns laptop large lass last
    lasting lately later latest laugh laughing laughter launch lavender lawn lawyer layer layered layers layout lazy
    lead leader leading leaf leaflet leak leaks leap learn leather leave leaves lecture lecturer led left leg legendary
    legs leica lemon lemonade lemons lens lenses less lesson let lets letter letterhead letting lettuce level levels
    librarian library life lift lighter lighting like liked likes lilac lily limit limited line linear linen lines link
    linseed lion lip lips liquid liquidity list listen listener listening lit literally lithograph lithography little
    live lived lively living lizard load loads local location lock lofi loft logo lone lonely long longer look looked
    looking looks loop loose lord lorry lose lot lots loud lounge love loved lover loving low lower luck lucky lullaby
    lunch lush luxury lyrical machine macro mad made magazine magenta magic magical magician mahogany mail main mainly
    maintain majestic major make makes making man manager mango manner mansion many marble margin margins marine mark
    marker markers market marks marquee marsh mascot master match mate material matinee mature mauve maximum maybe mayor
    me meadow meadowland meal meals mean meaning meant measure meat mechanic medium mediums meet meeting meets
    melancholic melancholy mellow melody melon member members memories memory men mention menu merely merge merged mess
    message messy met metal metallic method mic mice microphone microphones middle midnight might mighty mild milk milky
    mill millennium million mimic mimicking mind mine minimal minimum minister minor mint minus minute mirror mirrored
    miss missing mist misty mix mixed mixer mixture mobile mocha mod mode model models moderate moderator modified
    modify moist moment moments monday monitor monk monkey monochromatic monochrome monogram month months monument mood
    moody moped more morning mosque moss most mostly moth mother motif motion motorbike motorway mount mountain
    mountains mouse moustache mouth move moved movement moves movie movies moving much mug multi multiple mum mummy
    museum music musical musician musicians must mustard muted my myself mysterious mystery mystic mythical nail nails
    name nan nana napkin narrative narrow nasty nation national natural naturally nature navigate near nearly neat
    neatly necessary neck necklace need needs negative negatives neither nephew neutral never nevertheless new newsreel
    next nib nibs nicely niece nightlife nine nineties no nobody nod nodding noir noise noisy none noodles noon nor
    normal normally north nose nostril not note notebook noted notepad notes nothing notice noticeable novel november
    now number nun nurse nursery oak obey object objects oboe obvious obviously occasion occur ocean ochre october odd
    of off offer office officer official often okay old older olds olive ominous on once one only onto opaque open
    opening openly opera opposite optical option optional or orange orchestra orchid order ordinary organ organic
    organise origin original ornament ornamental other others our ours out outdoor outdoors outer outfit outline
    outlined outlines outlook output outside outstanding oven over overall overcast overexposed overlaid overlay overly
    owl own owner pace pack pad page paint paintbrush painter painterliness paintings pair paired palace pale palette
    palettes pamphlet pan panel panels pants papa paper paperback papers paragraph parchment parent parents park parrot
    part partial partially particular particularly partly partner parts party pass passenger passing passion past pasta
    pastoral patch path patient patio pattern patterns pause pavement peace peaceful peach pear pears peas pebble
    pebbles pedestrian pen pencil peninsula penthouse people pepper percent percentage perfectly perform performance
    performer performing perhaps periods periwinkle permanent permit person personal perspective pet petals phase
    philosopher phone phones phosphor phosphorescent photo photographer photography phrase physical pianist pic pick
    picnic pics picture pictures pie piece pieces pig pigeon pigment pigments pigs pillow pilot pine pink pistachio
    pitch pizza place placed places plain plainly plane planes planet planned plant plants plaster plastic plate plates
    platform platformer platinum play playback played player players playground playing plays pleasant please pleased
    plein plenty plot plum plumber plus plush pocket podcaster poem poetic poetry point pointed points policeman polish
    polished polite pond pony ponytail pool poor popular porcelain porch port portion portrait portraiture portray
    portrayed portraying pose posed posing position positive possible possibly post postcard poster postman pot potato
    potatoes potential pour powder power practical practice praise precise precisely prefer preferably premiere prepare
    presence present presentation presented presenter preserve preset press pressed pretend pretty prevent preview
    previous priest prima primarily primary primer primitive prince princess print printed printer printmaker
    printmaking prints prior private probably probe problem process produce produced producer product production
    productions professor profile program programme progress project projector prominent promise promote prompt prop
    proper properly proportion proposal protect proud provide provided provincial pub public puddle puddles pull pulse
    pump pumpkin punch pup pupil pupils puppies puppy pure purely purple purpose push put putting quaint quality
    quantity quarter queen quest question quick quickly quietly quill quills quirky quite quote rabbit racing radiant
    radiate radiator radio rain rainbow raincoat raindrop raindrops rainy raise ran random range rapid rapper rare
    rarely raspberry raster rat rate rather ratio raven raw rays reach react read reader reading readings ready real
    realise realism realistically reality really rear reason reasonable rebuild recall receive recent recently recipe
    recognise recommend record recording records recreate redesign redo redone redraw reduce reed reel reels reference
    refine reflect reflected reflection refresh region regular rehearsal reimagine reimagined relate related relax
    relaxed release reliable relief remain remake remark remember remind reminder reminding reminiscent remix remote
    remove removed render rendered rendering rendition repaint repeat repeated replace report reporter represent
    represented representing reproduce request require required resemble resembling reshape resize resolution resolve
    respect respond response responsive rest restaurant rested restore restored restrained restyle result retain retouch
    retro return reveal reverse reversed revert revise rhythm rhythmic ribbon rice rich ride right rightly ring rings
    ripple rise rising risograph river rivulet rivulets road roadie roads robin rock role roll rolleiflex rolling
    romance romantic roof roofs room roomy roots rope rose rosy rotate rotated rough roughly round roundabout rounded
    route row rowing royal rpg rubber ruddy rug ruin ruins ruler run running runny rural rush rust rustic rusty s sable
    sad sadness safe saffron sage said sailing sailor salad sale salmon salt same sample sand sandals sandwich satisfied
    satisfy saturate saturated saturation saturday saucepan saucer sausage save saved saw saxophonist say says scale
    scaled scan scanline scanlines scanner scarf scene scenery scenes scenic scent scheme school scientist scifi
    scissors scooter scope score scrapbook scratch scratched scratches scratchy scrawl scrawled screen screenprint
    screens screenshot screw screwdriver scribbles script scroll scrolls scumble scumbled sea seal seamless search
    season seasonal seat seated second secret secretary section see seeing seem seems seen select selected selection
    self selfie sell semi send senior sense senses sensible sensing sensitive sensor sensors sent sentence sentimental
    separate separately sequence serene serial series served service session set setting settings seven seventies
    seventy several severe sewing sexy sfumato sgraffito shade shaded shades shading shadow shadows shadowy shake shall
    shallow shampoo shape shaped shapes share shared sharp sharpen sharpener she shed sheepdog sheer sheet sheets shelf
    shelves shift shifted shimmer shimmering shine shining shiny ship ships shirt shock shoe shoes shoot shooting shop
    shopkeeper shopping shore short shortly shot shots should shoulder shoulders shout show showing shown shows shrimp
    shut shutter shy sick side sidekick sight sign signage signature signboard silent silently silk silkscreen silky
    silly silver similar similarly simple simply since singer singers singing single sink sister sit sitting six sixteen
    sixties sixty size sized skater skating sketch skiing skilful skill skilled skin skirt sky slate sleep sleet slice
    slid slide slides slightest slim slip slippers slow slowed slowly small smart smear smeared smell smidgen smile
    smiles smiling smoke smoky smooth smoothed smoothly smudge smudged snack snacks snail snake snap snapshot snare
    sneezing snow snowfall snowflake snowflakes snowy snug so soak soaked soaking soap social socks soda sofa soft
    softened softer soldier solid solo solution sombre some somebody somehow someone something sometimes somewhere son
    song soon soothing sorry sort sorts soul sound sounds soup source south space spacious spark sparkle sparkling
    sparrow sparse spatter speak speaker speakers speaking special specific specifically speckle speckled spectacles
    spectral spectrum speech speed spend spice spices spider spinach spirit spiritual splash splashed splashy splatter
    splendid split spoken spontaneous spooky spoon sport sports spot spotlight spotlights spots spray spread spring
    sprocket square squares squirrel stable stacked stadium staff stage stain stains staircase stairs stamp stamped
    stance stand standard standing stands star stark starring start started starting state static station stationary
    stations status stay steady steak steam steel step stepfather stick sticky still stipple stippled stippling stir
    stitch stockings stone stop stories stormy story storyboard storybook stove straight strange strangely strap
    strategic strawberries strawberry stream streamer streaming street streets strength stretch stretched strict
    strictly strike striking string strip stripe striped stripes strips strobe stroke strokes stroll strong structure
    structured student students studio study stuff stunning style styled styles stylisation stylise stylised stylish
    stylization stylize stylized sub subdued subject subtle success successful such sudden suddenly sugar suggest
    suggestion suit suitable summer sun sunday sunflower sunflowers sunglasses sunlight superb superior supermarket
    supper support supposed supreme sure surely surf surface surfaces surfer surgeon surprise surprising surround
    surrounding surroundings surveillance survive suspend suspense sustain swamp swan sweat sweater sweep sweet swift
    swim swimmer swimming swirl swirling swirls swirly switch switching symbol symbolic symmetric symmetrical symmetry
    synagogue synth synthesizer system table tablet tad tail tailor take taken takes taking tale talent talented talk
    talkie talking tall tambourines tan tangerine tank tap tape tapes target task taste taxi tea teach teacher teachers
    team teapot tear technical technique teen teenager teenagers teeth telephoto television tell telly temperature
    temple temporary ten tenant tend tender tent term terms terrace terrible terrific test textile texts textural
    texture textured than thank thanks that the theatre theatrical thee their theirs them theme themed themselves then
    therapist there therefore these they thick thicker thin thing things think thinner third thirties thirty this
    thorough thoroughly those thou though thousand threaded threads three thrill thriller throat through throughout
    throw thumb thunder thunderstorm thursday thus tiara ticket tie tied tiger tight tilt tilted timber time timeless
    tin tinge tinged tint tinted tintype tiny tip tired title titles to toad toast today toddler toddlers toe together
    tomato tomatoes tone toned tones tonight toning tons too tool tools top tops torch torn total totally touch touched
    touching tour tourist toward towards towel tower towers town toy toys trace traced tracing track traditional traffic
    trail train trained trainer trainers tram tranquil transfer transferred transform transformation transformed
    transforming transit transition translate translation translucent transparent travel treat treated treatment tree
    trees trial triangle trick tricky tried trim trio trip triple tripod tritone trombones trompe tropical trouble
    trousers truck true truly trumpet trumpeter trust truth try trying tuba tube tubes tuesday tulip tulips tune tuned
    turban turkey turn turned turning turns turntable turpentine turtle tv tweed twelve twenties twenty twice twin
    twinkle twins twist twisted two type types typical typically typing ugly ukulele ultimate ultimately unable uncle
    unclear under underexposed underpainting understand understated understood undo unexpected unfinished unfold uniform
    union unique unit unite united universal university unless unlike unlikely unseen until unusual up upbeat update
    updated upon upper upright upscale upside urban urge urgent us use used user users uses using usual utterly vacation
    vacuum vague vaguely valley valuable value values vapour variant variants variation variations varied variety
    various varnish vary varying vase vast veil vellum velvet velvety veranda verse version versions versus vertical
    very vessel vet vga vhs vibe vibes vibrant victory video videos view viewed viewer viewers viewfinder views vignette
    vignetted villa village villain vinyl violent violet violinist virtual virtually visible visibly vision visit
    visitor visor visual visually vital vividly vlogger vocal vocalist voice volume wacky waist wait waited waiter
    waitress wake walk walked walking walks wall wallpaper wander want wanted wanting wants wardrobe warehouse warm
    warmer warmest warmly was wash washed washing wasted watch watched watching water wave wavelength waves waving wavy
    wax way we wear wearing weather webcam wedding wednesday week weekend weird welcome well went were west wet what
    wheel when whenever where whereas wherever which whichever while whimsical whisper whispering whistling white who
    whoever whole why wicked wide wideangle widely wider widow wife wig wild will willing wind window wine wing winter
    wise wish wished wispy wistful with within without wolf woman women wonder wonderful wondering wood wooden wool word
    words work worker working works workshop world worldwide worm worn worth would wow wrap wrapped wrestling wrinkle
    wrinkled wrinkles wrist write writer writing written wrong yard yawning year yearly years yep yes yesterday yet yoga
    you young your yours youtuber zany zone zoo zoom zoomed
    """.split()
)

# Words that ask for what the model does not have: things, beings, deeds, trades, other arts, foreign and made-up words
# are noticed and told. A word of no list at all is to be noticed too, so this list is a sample of all the others.
STRANGE = tuple(
    """
    abacus aboriginal accountant acid actor adios admiral adventure aeroplane alarm alcohol algorithm alien alligator
    almond ambulance amore amphibian anagram analogy anchor angel animosity annual antelope antenna antibody anvil
    apocalypse apron aquarium archer arguing argument armour army arrow ashes astrology astronaut athlete atom attorney
    auction axe aztec baboon backpack bacteria badger balloon bandage banker banksy barrel baseball basket basquiat
    bathtub batik battery battle bazaar beacon beaver beehive bell bible biology bishop bison bitte blacksmith blender
    blizzard blockchain blueberry bluegrass boiler bomb bone bonjour boomerang boulder brain briefcase brushfire budget
    buffalo bulldozer bullet burning button byzantine cage calculator calendar camping canal cannibal cannon capital
    caravan carbon cargo carnival carriage cartel carton cartwheel carved casa casino catapult caterpillar cathode
    cattle ceiling celebrity celestial celibate celtic cemetery census chagall chain chainsaw champagne charity cheetah
    chemistry chien chimney chimpanzee cholesterol chrome ciao cigar circus citizen climate clown coach cobra cobweb
    coconut coffin coin coldplay collage comedy comma committee compass compiler concert conference constitution
    constructivism container contract coolant corazon corporation cosmic cottagecore coupon court coyote crab crane
    crater credit cricket crime criminal crochet crossbow crystal crystalline cube customs cyborg cylinder dagger dairy
    dali dam danke datamosh deadline delivery demon deposit destroyer detective devil dice dictionary diesel dieselpunk
    diet dinosaur diorama diploma disaster dishwasher diver dividend diving dolphin doughnut dragon dragonfly drawback
    drawbridge driving drought dwarf dynamite ecology economy edwardian eggplant egyptian electron embassy emperor
    enamel engine envelope enzyme equation eruption escher ethics exam exhibition exploding explosion export fairy
    falcon farming fauvism fax fighting finance firefighter fireworks flag flamenco fleur flood flying fog forecast
    fortress fossil fractal fromage frying funeral furnace furniture furry futurism galaxy gallon garlic gasoline gato
    gatto genome geometry geyser ghost giant giraffe glitch goblin goldmine golf gorilla government gracias gramophone
    grasshopper gravity greenback greenhouse grenade grunge guard guillotine gun hammock harvest haus hawk haystack
    himmel hiphop hippo hockey hokusai hola honeycomb hormone horror hund hunting hurricane hyena hypothesis iceberg
    icing igloo iguana income industry infant inflation inkberry inkjet inkling inkstand insect interview invasion
    inventory isometric jaguar jail jewel jockey joke journal jumping jungle jury kaffee kaleidoscope kandinsky kangaroo
    karate katze kennel kimono kingdom kiosk kiwi klimt knight knot koala konnichiwa laboratory labyrinth lacquer
    lagoons lava leopard leprechaun libro licence lieutenant lightning llama loan lobster locomotive logic logistics
    lunar lynx macrame magnet magpie magritte mailbox maison mammoth mangle mangrove mannerism manuscript marathon
    marching marriage mask mathematics matisse mattress mayan mechanical medal medicine medieval melting merci metaphor
    meteor military millionaire minimalism minimalist mining minotaur missile mole molecule monastery mondrian money
    monster moose mosquito motorcycle mule munch muscle mushy mutant needle neoliberal neolithic neophyte nest neuron
    newspaper newt nightgown nightmare nightshade ninja noche noirish nordic nuclear oasis oilcloth oilskin oiseau
    olympic onion orchard origami orthographic ostrich otter ottoman oxygen oyster package paddle paintball palm pancake
    panda panther parade parasite passport patchwork pathology patrol pavilion peacock peanut pearl pelican pendulum
    penguin penicillin pennant pension perfume perro persian pharmacy pheasant phoenix photon photosynthesis physics
    picasso pickle pipe pirate pistol pixelmator plague plasticine platypus plough poet poison polaris polarity police
    politics pollock pollution polo popcorn porcupine pottery prayer praying prego president prison privet probability
    propeller prophet protein psychedelic psychology pudding puppet puppetry purse pyramid python quantum quarry quilt
    quiz raccoon racket radar raft railway razor redhead redneck referendum religion rent reptile rescue retina retrofit
    revolution rhino rifle ritual robot rocket rodeo roller roman romanticism rooster rothko rugby samurai satchel
    sayonara scarecrow schematic schloss science scorpion sculpted sculpture seahorse seed semantics senator sepsis
    septic shark sheriff shield shouting shovel shower siren skateboard skeleton ski skull skunk skyscraper slave sled
    slimy sloth slug sniper soccer sociology sock software solarpunk spaceship spasibo spear sponge squid stapler
    statistics statue steampunk stethoscope stork storm strada strasse strategy studying summit suprematism surfboard
    surreal surrealism sushi sword symphony syntax syringe syrup tango tarantula tax taxation tealight technology
    telephone tennis terrorist theory thermodynamics thermometer thermostat thesis thief throne toaster tobacco toilet
    tomb tomorrow tongue tonic tonsil tooth topographic torpedo tortoise tractor trade traitor trampoline treasure
    treaty trench tribe trophy tsunami tuition tunnel tuxedo ufo underwater unemployment unicorn universe vaccine
    vampire vault vegetable vehicle vest veterinarian victorian vinegar vino vintner virus vitamin vocabulary volleyball
    voting vulture waffle wagon wallet walrus war warlord warning warrior wasp wasser watchtower watermelon waterproof
    watershed wealth weapon weed weevil western whale whip whisky whistle wicker wings witch wizard woodpecker wrench
    yacht yogurt zebra zeppelin zipper zombie
    """.split()
)
STRANGE_PHRASES = (
    "made of glass", "wearing a hat made of fire", "machine gun", "annual report", "football match",
    "please help me with tax", "what is this", "of course", "new york stock exchange", "air traffic control",
    "how are you doing", "prime minister", "world war", "gross domestic product", "peanut butter", "credit card",
    "washing machine", "ice hockey", "hot dog", "polar bear", "guinea pig", "sea monster", "time machine",
    "swimming pool", "roller coaster", "traffic jam", "space station", "solar system", "black hole", "fairy tale",
    "haunted house", "magic carpet", "flying saucer",
)  # fmt: skip

TEMPLATES = (
    "{look}", "{look} style", "{look} of {subject}", "{subject} in the style of {look}", "{subject}, {look}",
    "in {look} style", "a {look}", "{subject} as {look}", "make it look like {look}", "{filler} {look}",
    "{look}, {filler}", "{filler} {look} of {subject}, {filler}", "turn {subject} into {look}", "{look} look",
    "{subject} {look}", "{look} effect", "render as {look}", "{subject} painted as {look}, {filler}, {filler}",
    "an {look} of {subject}", "i want {look}", "looks like {look}", "{look} video of {subject}",
    "make {subject} {look}", "make this {look}", "draw {subject} as {look}", "{subject} in {look}", "style: {look}",
    "{look} filter", "use {look}", "use a {look} filter on {subject}", "{look} art", "{look} aesthetic",
    "{subject} looking like {look}", "{subject} like {look}", "as {look}", "everything in {look}", "all {look}",
    "the world as {look}", "a {filler} {look} picture of {subject}", "{look} scene with {subject}",
    "this should be {look}", "it should look like {look}", "can you make it {look}?", "set it to {look}",
    "transform {subject} into {look}", "image of {subject}, {look}, {filler}",
    "{subject}, {filler}, {look}, {filler}", "now {look}", "only {look}", "with {look}", "{filler}, {filler}, {look}",
    "my video as {look}", "imagine {subject} as {look}", "a picture in {look}", "inspired by {look}",
    "in the manner of {look}", "reminiscent of {look}", "restyle as {look}", "{look} vibes", "{look} mood",
    "{look} texture", "{look} technique", "show me {look}", "show {subject} in {look}", "{subject} drawn as {look}",
    "{subject} filmed as {look}", "do it in {look}", "paint {subject} with {look}", "the {look} one",
    "give it a {look} touch",
)  # fmt: skip
