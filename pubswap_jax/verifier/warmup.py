"""Sample answers that warm up the LaTeX parser before workers are forked.

Each worker judges the first twelve again before its first request, which copies the heap pages that judging writes to.
"""

FORMS = [
    (r"\frac{\sqrt{3}}{2}", r"-\frac{1}{2}\sqrt[3]{x+1}"),
    (r"2^{10}-1", r"\frac{3\pi}{4}+2\sqrt{5}"),
    (r"x^2-5x+6", r"(x-2)(x-3)"),
    (r"\frac{a+b}{2ab}", r"\frac{1}{2a}+\frac{1}{2b}"),
    (r"3+4i", r"\binom{5}{2}\cdot 3!"),
    (r"\cos\theta", r"\sin(\frac{\pi}{2}-\theta)"),
    (r"e^{2x}", r"\log_{2}(x)+\ln(x)"),
    ("y=2x+1", "2x-y+1=0"),
    (r"\begin{pmatrix}1&-\frac{1}{2}\\\sqrt{3}&4x\end{pmatrix}", r"2\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
    (r"(-\infty,\frac{\sqrt{2}}{3}]", r"(-\infty,\frac{2}{3\sqrt{2}}]"),
    (r"|x-1|", r"\lfloor x\rfloor"),
    ("1.5x", r"2\frac{1}{2}x\%"),
    (r"\sqrt{2}+\sqrt{3}", r"\frac{1}{\sqrt{3}-\sqrt{2}}"),
    (r"\frac{9\sqrt{3}-4\pi}{12}", r"6\pi\sqrt{2}-\frac{5}{3}"),
    (r"-3x^3+\frac{1}{2}x^2-7", r"(2x+3)^2(x^2-x+1)"),
    (r"\frac{x^2+1}{x(x-3)}", r"\frac{2}{x+1}-\frac{3x}{4}"),
    (r"10^{-3}", r"4\cdot 10^{5}"),
    (r"\left(\frac{3}{5}\right)^{4}", r"\left|\frac{1}{3}-x\right|"),
    (r"\tan(2x)\cos^2(x)", r"\sec^{2}x-\cot\left(\frac{x}{2}\right)"),
    (r"\arctan\frac{1}{2}", r"\sin^{-1}(x)"),
    (r"2^{\frac{1}{3}}\times 5", r"8^{1/3}\div 2"),
    (r"n!", r"\frac{n(n-1)}{2}"),
    (r"\{1,\sqrt{2},-\pi\}", r"\{-\pi,1,2^{1/2}\}"),
    (r"(2,\frac{\pi}{3},-\sqrt{5})", r"(2,\frac{\pi}{3},-5^{\frac{1}{2}})"),
    (r"x\le\frac{1}{2}", r"2x\leq 1"),
    ("x=3,y=-2", "y=-2,x=3"),
    (r"\frac{1+i\sqrt{3}}{2}", r"e^{i\pi/3}"),
    (r"\overline{AB}", r"\text{even}"),
]
