"""Chinese words for clips."""

from diptych.worlds.emoji.words.grammar import Frames
from diptych.worlds.emoji.words.moving import Moving

CHINESE_MOVING = Moving(
    code="zh",
    acts={
        "move": Frames(
            trained=("{a}向{w}移动", "{a}向{w}移动", "{a}往{w}走", "{a}朝{w}移动", "{a}移到{w}边"),
            held=("{a}往{w}跑", "{a}朝{w}边去"),
        ),
        "jump": Frames(
            trained=("{a}跳{t}", "{a}跳{t}", "{a}跳起来{t}", "{a}蹦{t}", "{a}跳跃{t}"), held=("{a}蹦跳{t}",)
        ),
        "appear": Frames(
            trained=("{a}出现", "{a}出现了", "出现{a}", "突然出现{a}", "突然有{a}"), held=("{a}冒了出来",)
        ),
        "vanish": Frames(
            trained=("{a}消失", "{a}消失了", "{a}不见了", "{a}突然消失", "{a}走了"), held=("{a}没有了",)
        ),
        "grow": Frames(trained=("{a}变大", "{a}变大", "{a}长大", "{a}越来越大"), held=("{a}逐渐放大",)),
        "shrink": Frames(trained=("{a}变小", "{a}变小", "{a}缩小", "{a}越来越小"), held=("{a}逐渐缩小",)),
        "swap": Frames(
            trained=("{a}和{b}交换位置", "{a}和{b}交换位置", "{a}和{b}换位置", "{a}与{b}互换位置"),
            held=("{a}跟{b}对调",),
        ),
    },
    orders={
        "move": Frames(
            trained=(
                "让{a:the}向{w}移动",
                "把{a:the}移到{w}边",
                "使{a:the}往{w}走",
                "请让{a:the}朝{w}移动",
                "可以让{a:the}向{w}移动吗？",
            ),
            held=("叫{a:the}往{w}去",),
        ),
        "jump": Frames(
            trained=("让{a:the}跳{t}", "使{a:the}跳{t}", "请让{a:the}蹦{t}", "可以让{a:the}跳{t}吗？"),
            held=("叫{a:the}跳{t}",),
        ),
        "appear": Frames(trained=("让{a}出现", "使{a}出现", "请让{a}出现"), held=("变出{a}",)),
        "vanish": Frames(
            trained=("让{a:the}消失", "使{a:the}消失", "让{a:the}不见"), held=("把{a:the}变没",)
        ),
        "grow": Frames(trained=("让{a:the}变大", "使{a:the}变大", "让{a:the}长大"), held=("叫{a:the}变大",)),
        "shrink": Frames(
            trained=("让{a:the}变小", "使{a:the}变小", "让{a:the}缩小"), held=("叫{a:the}变小",)
        ),
        "swap": Frames(
            trained=("让{a:the}和{b:the}交换位置", "交换{a:the}和{b:the}", "使{a:the}和{b:the}互换位置"),
            held=("把{a:the}和{b:the}对调",),
        ),
    },
    ways={"left": ("左",), "right": ("右",), "up": ("上",), "down": ("下",)},
    times=(("一次", "一下", "1次"), ("两次", "两下", "2次"), ("三次", "三下", "3次")),
    beside=Frames(
        trained=("{x}，旁边有{b}", "{x}，旁边是{b}", "有{b}，{x}", "{b}旁边，{x}"), held=("{x}，附近有{b}",)
    ),
    then=Frames(
        trained=("先是{x}，然后{y}", "首先{x}，接着{y}", "{x}，然后{y}", "{x}，之后{y}"),
        held=("开始时{x}，最后{y}",),
    ),
    clip=Frames(
        trained=(
            "{x}",
            "{x}",
            "{x}",
            "视频：{x}",
            "做一个视频：{x}",
            "一段视频，{x}",
            "生成一个视频：{x}",
            "给我看{x}",
            "动画：{x}",
            "短片：{x}",
        ),
        held=("拍下来：{x}", "我想看{x}的视频"),
    ),
    backwards=Frames(trained=("倒着播放", "把视频倒过来", "倒放", "反向播放"), held=("从最后放到开头",)),
    verbs={
        "move": ("在移动", "移动了"),
        "jump": ("在跳", "跳了"),
        "appear": ("出现了", "出现"),
        "vanish": ("消失了", "不见了"),
        "grow": ("变大了", "长大了"),
        "shrink": ("变小了", "缩小了"),
    },
    questions={
        "what acts": Frames(
            trained=("什么{v}？", "什么东西{v}？", "视频里什么{v}？", "哪个东西{v}？"), held=("说说什么{v}",)
        ),
        "where to": Frames(
            trained=(
                "{a:the}往哪里移动？",
                "{a:the}去哪里？",
                "{a:the}朝哪个方向移动？",
                "{a:the}往哪边走？",
            ),
            held=("{a:the}是往哪边去的？",),
        ),
        "how often": Frames(
            trained=("{a:the}跳了几次？", "{a:the}跳几次？", "{a:the}跳了多少次？", "数一数{a:the}跳了几次"),
            held=("{a:the}一共跳几下？",),
        ),
        "what first": Frames(
            trained=(
                "谁先，{a:the}还是{b:the}？",
                "哪个先，{a:the}还是{b:the}？",
                "先是{a:the}还是{b:the}？",
            ),
            held=("{a:the}和{b:the}，谁在前？",),
        ),
        "what happens": Frames(
            trained=(
                "发生了什么？",
                "视频里发生了什么？",
                "描述这个视频",
                "这个视频是什么内容？",
                "描述一下",
            ),
            held=("用一句话说说视频",),
        ),
    },
    to={"left": "向左", "right": "向右", "up": "向上", "down": "向下"},
    often=("一次", "两次", "三次"),
)
