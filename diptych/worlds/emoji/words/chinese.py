"""Chinese: measure words between numbers and nouns, no plural, two is 两 before them."""

from __future__ import annotations

import numpy as np

from diptych.worlds.emoji.words.grammar import Frames, Noun, Tongue, pick


def _all(measures: str, *names: str) -> tuple[Noun, ...]:
    return tuple(Noun(name, name, measures=tuple(measures)) for name in names)


def _say(tongue: Tongue, noun: Noun, count: int, spec: str, rng: np.random.Generator) -> str:
    name = noun.one
    if noun.colour:
        colour = noun.colour
        name = pick(rng, (f"{colour}色的{name}", f"{colour}色{name}", f"{colour}色的{name}"))
    if spec in ("many", "bare"):
        return name
    measure = pick(rng, noun.measures)
    if spec == "the":
        return pick(rng, (name, name, f"那{measure}{name}" if count == 1 else f"那些{name}"))
    number = ("零", "一", "两", "三", "四", "五")[count]
    if count == 1 and rng.random() < 0.15:
        return name
    return f"{pick(rng, (number, number, str(count)))}{measure}{name}"


CHINESE = Tongue(
    code="zh",
    nouns={
        "cat": _all("只个", "猫", "猫", "小猫", "猫咪"),
        "dog": _all("只条个", "狗", "狗", "小狗", "狗狗"),
        "apple": _all("个", "苹果", "苹果", "红苹果"),
        "banana": _all("根个", "香蕉"),
        "carrot": _all("根个", "胡萝卜", "胡萝卜", "红萝卜"),
        "car": _all("辆个", "汽车", "车", "小汽车", "轿车"),
        "tree": _all("棵", "树", "树", "松树", "大树"),
        "star": _all("颗个", "星星", "星星", "星", "黄色的星星"),
        "fish": _all("条", "鱼", "鱼", "小鱼"),
        "house": _all("座栋个", "房子", "房子", "屋子", "小屋"),
        "sunflower": _all("朵个", "向日葵", "向日葵", "花", "太阳花"),
        "crown": _all("顶个", "皇冠", "皇冠", "王冠"),
        "thumbs up": _all("个", "大拇指", "竖起的大拇指", "点赞的手势", "赞"),
        "thumbs up: light skin tone": _all("个", "浅肤色的大拇指", "浅色皮肤的大拇指", "浅肤色的赞"),
        "thumbs up: dark skin tone": _all("个", "深肤色的大拇指", "深色皮肤的大拇指", "深肤色的赞"),
        "man farmer": _all("个位名", "男农民", "男农夫", "男性农民"),
        "woman farmer": _all("个位名", "女农民", "农妇", "女农夫", "女性农民"),
    },
    shapes={
        "circle": _all("个", "圆", "圆形", "圆圈", "圆点"),
        "square": _all("个", "正方形", "方块", "方形"),
        "heart": _all("颗个", "心", "爱心", "心形"),
    },
    colours={
        "red": ("红",),
        "orange": ("橙", "橙", "橘"),
        "yellow": ("黄",),
        "green": ("绿",),
        "blue": ("蓝",),
        "purple": ("紫",),
    },
    backgrounds={
        "white": ("白色",),
        "pink": ("粉色", "粉红色"),
        "mint": ("薄荷色", "薄荷绿色", "浅绿色"),
        "sky blue": ("天蓝色", "浅蓝色"),
        "lavender": ("淡紫色", "薰衣草色", "浅紫色"),
        "gray": ("灰色",),
    },
    coloured="{}色",
    numbers=("零", "一", "二", "三", "四", "五"),
    say=_say,
    joins=("和", "和", "和", "、", "，", "以及", "还有", "与"),
    comma="、",
    draw=Frames(
        trained=(
            "{x}",
            "{x}",
            "{x}",
            "画{x}",
            "画{x}",
            "请画{x}",
            "画一下{x}",
            "帮我画{x}",
            "请帮我画{x}",
            "你能画{x}吗？",
            "可以画{x}吗",
            "给我画{x}",
            "一张{x}的图片",
            "一幅{x}的画",
            "生成{x}",
            "生成一张{x}的图片",
            "我想要{x}",
            "我想看{x}",
            "我要{x}",
            "来{x}",
            "给我看{x}",
            "显示{x}",
            "创建一张有{x}的图",
            "图片：{x}",
            "请生成{x}的图像",
            "只要{x}",
        ),
        held=("麻烦画{x}", "绘制{x}", "我希望看到{x}", "能不能画{x}", "孩子想要{x}"),
    ),
    on=Frames(
        trained=(
            "{x}，{c}背景",
            "{c}背景上的{x}",
            "{x}，背景是{c}",
            "在{c}背景上，{x}",
            "{c}背景，{x}",
            "{x}，背景为{c}",
            "{x}，用{c}的背景",
        ),
        held=("背景用{c}：{x}", "{x}，后面是{c}"),
    ),
    stands={
        "left of": ("左边", "左边", "左侧", "左面"),
        "right of": ("右边", "右边", "右侧", "右面"),
        "above": ("上面", "上方", "上边"),
        "below": ("下面", "下方", "下边"),
    },
    sides={
        "left of": ("左边", "左侧"),
        "right of": ("右边", "右侧"),
        "above": ("上面", "上方"),
        "below": ("下面", "下方"),
    },
    related=Frames(
        trained=(
            "{a}在{b}的{w}",
            "{a}在{b}{w}",
            "{b}{w}的{a}",
            "{b}{w}有{a}",
            "{b}的{w}有{a}",
            "{b}在{a}的{v}",
            "{a}和{b}，{a:the}在{b:the}的{w}",
        ),
        held=("{b}，它的{s}有{a}", "{a}位于{b}的{w}"),
    ),
    sentences=Frames(
        trained=(
            "在{b}的{w}画{a}",
            "在{b}{w}画{a}",
            "{b}的{w}是{a}",
            "画{b}，{s}画{a}",
            "有{b}，{s}是{a}",
            "把{a}放在{b}的{w}",
            "{b}，{s}{a}",
            "我想要{b}，{s}有{a}",
        ),
        held=("先画{b}，再在{s}画{a}", "在{b}的{w}放{a}"),
    ),
    greetings=("", "", "", "", "", "你好，", "嗨，"),
    thanks=("", "", "", "", "", "，谢谢", "。", "！"),
    edits={
        "add": Frames(
            trained=(
                "加{a}",
                "添加{a}",
                "加上{a}",
                "在图里加{a}",
                "再画{a}",
                "放{a}进去",
                "请添加{a}",
                "能加{a}吗？",
                "图中再加{a}",
            ),
            held=("增加{a}", "还要{a}", "补上{a}"),
        ),
        "remove": Frames(
            trained=(
                "去掉{the}",
                "删除{the}",
                "把{the}去掉",
                "把{the}删掉",
                "移除{the}",
                "擦掉{the}",
                "把{the}拿走",
                "不要{the}",
                "能去掉{the}吗？",
            ),
            held=("清除{the}", "把{the}抹掉", "让{the}消失"),
        ),
        "replace": Frames(
            trained=(
                "把{the}换成{a}",
                "用{a}代替{the}",
                "把{the}变成{a}",
                "将{the}替换为{a}",
                "把{the}改成{a}",
                "{the}换成{a}",
                "用{a}替换{the}",
            ),
            held=("让{the}变为{a}", "不要{the}，要{a}"),
        ),
        "recolour": Frames(
            trained=(
                "把{the}变成{c}",
                "把{the}涂成{c}",
                "把{the}改成{c}",
                "将{the}的颜色改为{c}",
                "{the}换成{c}",
                "把{the}染成{c}",
                "{the}要{c}的",
            ),
            held=("让{the}变为{c}", "给{the}上{c}"),
        ),
        "move": Frames(
            trained=(
                "把{the}移到{m}",
                "把{the}放到{m}",
                "将{the}移动到{m}",
                "把{the}挪到{m}",
                "{the}移到{m}",
                "把{the}推到{m}",
            ),
            held=("让{the}到{m}去", "把{the}搬到{m}"),
        ),
        "background": Frames(
            trained=(
                "把背景改成{c}",
                "背景换成{c}",
                "背景变成{c}",
                "用{c}背景",
                "将背景设为{c}",
                "把背景涂成{c}",
                "我要{c}的背景",
                "{c}背景",
            ),
            held=("让背景变为{c}", "背景颜色改为{c}"),
        ),
        "tone": Frames(trained=("把{the}改成{t}", "给{the}{t}", "{the}换成{t}"), held=("让{the}变为{t}",)),
        "gender": Frames(
            trained=("改变{the}的性别", "把{the}变成{a}", "把{the}换成{a}"), held=("让{the}变为{a}",)
        ),
    },
    sides_of_picture={
        "left": ("左边", "最左边", "左侧"),
        "right": ("右边", "最右边", "右侧"),
        "top": ("上面", "最上面", "顶部", "上方"),
        "bottom": ("下面", "最下面", "底部", "下方"),
    },
    tones={"light skin tone": ("浅肤色", "浅色皮肤"), "dark skin tone": ("深肤色", "深色皮肤")},
    questions={
        "what": Frames(
            trained=(
                "这是什么？",
                "这是什么",
                "图里有什么？",
                "你看到了什么？",
                "图片里是什么？",
                "图上是什么",
            ),
            held=("这里有什么？", "你能认出这是什么吗？"),
        ),
        "how many": Frames(
            trained=(
                "有几{measure}{many}？",
                "有多少{many}？",
                "图里有几{measure}{many}？",
                "数一数{many}",
                "几{measure}{many}",
                "你看到几{measure}{many}？",
                "{many}有多少？",
                "一共有几{measure}{many}",
            ),
            held=("能数出几{measure}{many}？", "{many}的数量是多少？"),
        ),
        "colour": Frames(
            trained=(
                "{the}是什么颜色？",
                "{the}是什么颜色的",
                "{the}的颜色是什么？",
                "什么颜色的{the}？",
                "{the}什么颜色",
            ),
            held=("说出{the}的颜色",),
        ),
        "where": Frames(
            trained=(
                "{a:the}在{b:the}的哪边？",
                "从{b:the}看，{a:the}在哪里？",
                "相对于{b:the}，{a:the}在哪里？",
                "{a:the}在{b:the}的什么位置？",
                "{a:the}在{b:the}的哪个方向？",
            ),
            held=("以{b:the}为准，{a:the}在哪边？",),
        ),
        "is so": Frames(
            trained=("{a:the}在{b:the}的{w}吗？", "{b:the}的{w}有{a}吗？", "{a:the}是不是在{b:the}的{w}？"),
            held=("{a:the}在不在{b:the}的{w}？",),
        ),
        "beside": Frames(
            trained=("{b:the}的{w}是什么？", "{b:the}{w}有什么？"), held=("什么在{b:the}的{w}？",)
        ),
        "is there": Frames(
            trained=(
                "有{a:bare}吗？",
                "图里有{a:bare}吗？",
                "你看到{a:bare}了吗？",
                "有没有{a:bare}？",
                "这里有{a}吗？",
            ),
            held=("能看到{a:bare}吗？", "图中是否有{a:bare}？"),
        ),
        "caption": Frames(
            trained=(
                "描述这张图片",
                "描述一下图片",
                "图里都有什么？",
                "说说你看到的",
                "给图片写个说明",
                "请描述图像",
            ),
            held=("用文字描述画面", "介绍一下这幅图"),
        ),
    },
    answers={
        "yes": "是",
        "no": "不是",
        "there": "有",
        "not there": "没有",
        "left of": "左边",
        "right of": "右边",
        "above": "上面",
        "below": "下面",
    },
    caption="{x}，{c}背景",
    within=Frames(
        trained=("{x}", "{x}", "在遮罩里{x}", "只在白色区域{x}", "{x}，只改白色部分", "在标记的地方{x}"),
        held=("{x}，遮罩外不变",),
    ),
    masked={
        "add": Frames(trained=("加{a}", "在这里画{a}", "放{a}", "{a}"), held=("这里加上{a}",)),
        "remove": Frames(trained=("去掉", "删掉这个", "擦掉它", "去掉{the}"), held=("清空这里",)),
        "replace": Frames(trained=("换成{a}", "变成{a}", "改成{a}", "用{a}代替"), held=("替换为{a}",)),
        "recolour": Frames(trained=("变成{c}", "涂成{c}", "改成{c}"), held=("换为{c}",)),
    },
    this={
        1: Frames(trained=("这个", "图里的东西", "它", "这个东西"), held=("图中所示",)),
        2: Frames(trained=("{n}个这个", "{n}个这样的", "{n}个它"), held=("{n}个图中的东西",)),
    },
    along=Frames(
        trained=("{x}", "沿着线条画{x}", "按照边缘画{x}", "按这个布局，{x}"), held=("依照轮廓画{x}",)
    ),
)
